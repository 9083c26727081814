"""Vocabularies without TensorFlow: reading, writing and training tokenizers, and chat templates."""
