"""Many pictures at a time, into one file of results that a later run resumes."""
