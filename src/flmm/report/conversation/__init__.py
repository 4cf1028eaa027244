"""The claim that grounding does not change answers."""
