"""Maximal update parametrization: learning rates that transfer across widths and depths."""
