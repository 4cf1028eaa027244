"""The command ``flmm``. Its modules import heavy libraries only when a command runs."""
