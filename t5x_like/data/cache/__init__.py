"""Token caches: a task's split, tokenized once into flat files that are read by memory map."""
