"""The claim about which layers and heads ground."""
