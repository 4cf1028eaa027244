"""The claim that a crop of the located region improves answers."""
