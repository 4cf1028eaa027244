"""The claim that conversation is untouched."""
