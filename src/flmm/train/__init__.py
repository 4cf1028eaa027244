"""Training of heads: settings, features and their cache, the training loop, files on disk."""
