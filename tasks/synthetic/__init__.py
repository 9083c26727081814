"""Tasks over generated examples, equal on every machine."""
