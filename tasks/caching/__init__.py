"""Builds token caches from seqio tasks; apart from task definitions, the only code that runs seqio and TensorFlow."""
