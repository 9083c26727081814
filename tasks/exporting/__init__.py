"""Exported runs for TensorFlow."""
