"""What every request meets first: keys, limits on bodies and prompts, pictures from elsewhere."""
