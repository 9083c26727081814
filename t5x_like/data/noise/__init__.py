"""The random choices behind denoising objectives, as pure functions on numpy arrays."""
