"""API keys, limits on bodies and prompts, and safe reading of pictures."""
