"""Tasks over examples that a program generates, the same on every machine."""
