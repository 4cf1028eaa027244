"""The claim about the cost of a segmentation token."""
