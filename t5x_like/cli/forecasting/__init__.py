"""The commands that fit scaling laws to a table of runs, predict and plan runs, and write reports."""
