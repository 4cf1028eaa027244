"""Evaluation of a head on benchmarks, as in papers, with the scores of each phrase on disk."""
