"""What recording and grounding cost, measured on random models of real sizes."""
