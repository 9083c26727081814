"""Tables of runs, scaling laws, and fits of laws to tables."""
