"""Results of ``flmm batch`` as the files of annotation tools and data sets."""
