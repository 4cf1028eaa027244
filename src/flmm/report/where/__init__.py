"""The claim about where grounding lives."""
