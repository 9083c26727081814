"""Reports on a table of runs, as one HTML page with its figures."""
