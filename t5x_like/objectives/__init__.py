"""Training losses. Every objective satisfies `t5x_like.types.Objective`:

    objective(apply, params, batch, rng) -> (total, weight, metrics)

The loss of a batch is total / weight; both are sums, so they add up over microbatches, devices and hosts. The model runs
in training mode (dropout) if `rng` is given and in evaluation mode if it is None.

`preference`, `reference_free`, `unpaired` and `rewards` are losses of preferences as functions of plain arrays, without a model.
"""
