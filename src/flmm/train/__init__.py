"""Training of heads: settings, features and their cache, the loop, what it leaves on disk."""
