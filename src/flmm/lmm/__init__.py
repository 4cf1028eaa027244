"""LMM adapters: what flmm needs to know of an LMM, and one file for each family."""
