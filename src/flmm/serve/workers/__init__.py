"""The model queue, its jobs, and the thread that predicts masks."""
