"""The claim that a closer look helps."""
