"""Tasks over a user's own data, defined from gin: files, Hugging Face datasets and TFDS."""
