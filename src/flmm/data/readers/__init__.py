"""One file for each published data set format: from its files to samples."""
