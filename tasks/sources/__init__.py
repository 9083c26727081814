"""seqio data sources with an exact order: files, Hugging Face datasets and TFDS."""
