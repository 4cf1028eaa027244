"""The recipe of the embedded model: scenes → LMM → SAM → head, each stage resumable."""
