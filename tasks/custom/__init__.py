"""Tasks over the user's own data, configured in gin: files, Hugging Face datasets and TFDS."""
