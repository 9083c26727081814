"""The parts of `t5x_like sweep`: trials, the process of a trial, self-sized ladders and muP checks."""
