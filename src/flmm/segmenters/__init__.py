"""Segment Anything models behind one interface: encode a picture once, decode prompts to masks.

Each family is a file with one subclass of ``Segmenter`` that has the literals ``model_types`` and
``hub_ids``. ``auto`` and the tests in ``tests/contract`` find it by listing this folder.
"""
