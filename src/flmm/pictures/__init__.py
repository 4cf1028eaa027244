"""Reading of the user's pictures, and the geometry between them and the LMM's canvas."""
