"""Checks of a real LMM: its prompt, the places of its image tokens, recording, and answers."""
