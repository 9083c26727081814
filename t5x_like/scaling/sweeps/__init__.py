"""Sweeps of runs: designs, trials, executors and the table of results."""
