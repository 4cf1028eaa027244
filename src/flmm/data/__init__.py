"""Grounded texts on disk: the files of the field's data sets, read as their owners publish them."""
