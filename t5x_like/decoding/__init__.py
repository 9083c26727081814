"""Decoding: samplers that choose the next token (`sampling`), processors that change its logits before (`processors`), and the
cached generation loop (`loop`).
"""
