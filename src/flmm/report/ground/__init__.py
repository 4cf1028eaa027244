"""The claim that frozen LMMs ground."""
