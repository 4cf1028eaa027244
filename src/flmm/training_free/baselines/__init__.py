"""Published training-free methods, as baselines; one file for each, listed in ``by_name.py``.

Implemented from the papers, without their authors' code.
"""
