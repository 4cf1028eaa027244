"""What the user gets: the answer, its JSON, and the figures drawn of it."""
