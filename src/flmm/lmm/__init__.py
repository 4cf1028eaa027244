"""LMM adapters: chat template, prompt, image tokens and generation, one file for each family."""
