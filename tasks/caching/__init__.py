"""Token caches built from seqio tasks: the only code that runs seqio and TensorFlow outside of task definitions."""
