"""Scaling laws: tables, fits, plans, sweeps, muP, studies and reports."""
