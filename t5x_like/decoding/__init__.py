"""Decoding: samplers that choose the next token (`sampling`), processors that change its logits before (`processors`), the cache
(`state`), the generation loop (`loop`), beam search (`beams`), speculative decoding (`speculative`, `proposers`), and records of
what they return (`results`).
"""
