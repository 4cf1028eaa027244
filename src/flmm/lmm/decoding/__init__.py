"""Generation of several answers at once, each of which may join and leave at any step."""
