"""The parts of `t5x_like sweep`: trials, the process of a trial, ladders sized by time, and muP checks."""
