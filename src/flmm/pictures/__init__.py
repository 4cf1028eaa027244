"""The user's pictures: reading them, and the geometry between them and the LMM's canvas."""
