"""The embedded model: the recipe that trains it, and its evaluation."""
