"""Readers of published data sets, one file a format: from its files to samples."""
