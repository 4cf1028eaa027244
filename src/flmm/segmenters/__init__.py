"""Segment Anything models behind one interface: encode a picture, decode prompts to masks."""
