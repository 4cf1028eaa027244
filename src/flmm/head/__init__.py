"""The trained grounding head: the model, its weights on disk, and conversion of published ones."""
