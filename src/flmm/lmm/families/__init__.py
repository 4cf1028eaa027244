"""One file for each LMM family: its adapter, found by listing this folder."""
