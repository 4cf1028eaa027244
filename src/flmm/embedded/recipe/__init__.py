"""How the embedded model is made: world → LMM → segmenter (SAM) → head, each resumable."""
