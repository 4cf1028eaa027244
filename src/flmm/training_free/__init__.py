"""Masks from the attention of a frozen LMM without a trained head."""
