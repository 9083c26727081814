"""Models used by hand: a chat in the terminal."""
