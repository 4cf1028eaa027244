"""Where the pictures of a batch are, and what is asked about each."""
