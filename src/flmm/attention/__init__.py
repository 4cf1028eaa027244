"""Word-image attention: recorded while the frozen LMM runs, and tied to phrases of its text."""
