"""One file for each LMM family; to add a family, add a file here, modelled on ``llava.py``.

The file has one subclass of ``LMMAdapter`` with the literals ``model_types`` and ``hub_ids``.
``flmm.lmm.auto`` and the tests in ``tests/contract`` find it by listing this folder.
"""
