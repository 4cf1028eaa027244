"""Answers measured with and without a closer look: ways to ask, scores, a judge, tables."""
