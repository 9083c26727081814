"""Gin files: architectures/ (what it is), sizes/ (how big), runs/ (what to do), tasks, objectives, optimizers, meshes."""
