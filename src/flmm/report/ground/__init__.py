"""The claim that attention of frozen LMMs yields masks."""
