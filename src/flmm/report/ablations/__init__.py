"""The claim about what matters in the head."""
