"""Quantization of trained models for decoding: of their weights (`weights`), and of their cached keys and values (`cache`)."""
