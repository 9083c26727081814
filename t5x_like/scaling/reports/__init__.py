"""Reports on a table of runs: one HTML page with its figures."""
