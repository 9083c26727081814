"""Objectives: `objective(apply, params, batch, rng) -> (total, weight, metrics)`, sums that are divided once, at the end.

`apply` is a model's `apply`. With `rng` the model runs in training mode (dropout), with None in evaluation mode.
`metrics` are (total, count) pairs that add up over microbatches, hosts and batches.
"""
