"""Token caches: the splits of tasks, tokenized once into flat files that are memory-mapped."""
