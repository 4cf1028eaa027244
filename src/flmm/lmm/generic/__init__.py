"""The adapter for every LMM without a family file: it finds out where image tokens lie."""
