"""Commands for tuned models."""
