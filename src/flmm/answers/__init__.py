"""Result types: the answer, its JSON, its overlay and figures."""
