"""Training: the trainer, its loop and step, the state, and the loss monitor."""
