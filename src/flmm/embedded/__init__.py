"""The embedded model: how it is trained (recipe) and how it is measured."""
