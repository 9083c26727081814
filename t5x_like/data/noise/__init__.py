"""The random choices of denoising objectives, as pure functions on NumPy arrays."""
