"""Benchmarks of recording, grounding, loading and training, on random models of real sizes."""
