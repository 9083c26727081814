"""Standard benchmark datasets as seqio tasks."""
