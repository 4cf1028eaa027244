"""One file for each published data set format: from its files to samples.

To add a format, add a reader here, its settings to ``flmm.data.sources``, and a tiny copy of its
files to ``flmm.data.fixtures``.
"""
