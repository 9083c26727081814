"""Decoding: samplers that choose the next token (`sampling`), and the cached generation loop (`loop`)."""
