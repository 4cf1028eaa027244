"""The LMM families: one file with one adapter each, found by listing this folder."""
