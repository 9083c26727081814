"""Decoding: how the next token is chosen (`sampling`), and the loop that generates with a cache (`loop`)."""
