"""Many pictures into one results file that a later run resumes."""
