"""Scaling laws and the arithmetic they stand on."""
