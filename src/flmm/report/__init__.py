"""The paper's claims, measured on a model at hand: tables, figures, and their numbers."""
