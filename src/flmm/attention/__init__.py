"""Word-image attention: recording it while the frozen LMM runs, and selecting a phrase's tokens."""
