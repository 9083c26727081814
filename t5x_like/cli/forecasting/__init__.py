"""Commands that fit scaling laws to a table of runs, predict and plan runs, verify forecasts, and write reports."""
