"""Commands that fit scaling laws to a table of runs, predict and plan runs, score forecasts, and write reports."""
