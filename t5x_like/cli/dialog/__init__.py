"""Models used by hand: a chat in the terminal, and a model in a notebook."""
