"""The claim about what a segmentation token costs."""
