"""The trained grounding head: the model, its files, and conversion of published checkpoints."""
