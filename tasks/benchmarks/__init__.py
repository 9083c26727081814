"""Standard benchmarks as seqio tasks, read from the user's files or from prepared TFDS datasets."""
