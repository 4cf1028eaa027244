"""Data sets: readers of the published files, samples, exchanges with the LMM, features of both."""
