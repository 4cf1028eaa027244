"""The command ``flmm``. Its modules import nothing heavy until a command really runs."""
