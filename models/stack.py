"""A stack repeats a block, scanned or unrolled, and applies the position encoding."""

from collections.abc import Callable
from typing import Any

import jax
from flax import linen as nn

from t5x_like.models.context import Context
from t5x_like.models.linear import constrain
from t5x_like.models.norms import RMSNorm

# Rematerialisation policies for `Stack.remat`: which activations of a block are saved for the backward pass.
save_nothing = jax.checkpoint_policies.nothing_saveable
save_products = jax.checkpoint_policies.dots_with_no_batch_dims_saveable


class Stack(nn.Module):
    """position -> input_norm -> projection -> `repeats` blocks -> tail -> norm.

    `scan` compiles one block and loops over it; its parameters are stacked along a leading axis `layers`. `shared` uses the
    parameters of one block in every repetition (ALBERT, Lan et al. 2020) and always scans. `tail` is a block or pattern for
    the layers that do not fill another repetition. `remat` is a policy (`save_nothing`, `save_products` or any of
    jax.checkpoint_policies); None saves every activation. `dropout` is the rate after the position encoding and at the output,
    unless `output_dropout` is given.
    """

    block: nn.Module
    repeats: int
    position: nn.Module | None = None
    input_norm: nn.Module | None = None
    projection: nn.Module | None = None
    tail: nn.Module | None = None
    norm: nn.Module | None = RMSNorm()
    shared: bool = False
    scan: bool = True
    remat: Callable | None = None
    dropout: float = 0.0
    output_dropout: float | None = None

    @nn.compact
    def __call__(self, x_BLD: jax.Array, ctx: Context) -> jax.Array:
        if self.position is not None:
            x_BLD, ctx = self.position(x_BLD, ctx)
        if self.input_norm is not None:
            x_BLD = self.input_norm(x_BLD)
        x_BLD = nn.Dropout(self.dropout, deterministic=not ctx.train)(x_BLD)
        if self.projection is not None:
            x_BLD = self.projection(x_BLD)
        x_BLD = self.apply_blocks(x_BLD, ctx)
        rate = self.dropout if self.output_dropout is None else self.output_dropout
        return nn.Dropout(rate, deterministic=not ctx.train)(x_BLD if self.norm is None else self.norm(x_BLD))

    def apply_blocks(self, x_BLD: jax.Array, ctx: Context) -> jax.Array:
        """Applies the block `repeats` times, then the tail."""

        def plain(block: nn.Module, x_BLD: jax.Array, ctx: Context) -> tuple[jax.Array, None]:
            return constrain(block(x_BLD, ctx), "batch", "length", "embed"), None

        scan = self.scan or self.shared
        step = plain if self.remat is None else nn.remat(plain, policy=self.remat, prevent_cse=not scan)
        if scan:
            x_BLD = self.scan_blocks(step)(self.block.copy(name="layers"), x_BLD, ctx)[0]
        else:
            for i in range(self.repeats):
                x_BLD, _ = step(self.block.copy(name=f"layer_{i}"), x_BLD, ctx)
        if self.tail is None:
            return x_BLD
        last = step if self.remat is None else nn.remat(plain, policy=self.remat)
        return last(self.tail, x_BLD, ctx)[0]

    def scan_blocks(self, step: Callable) -> Callable:
        """Returns `step` scanned over the repetitions, with their parameters along axis 0, or the same for all."""
        axes: dict[Any, int] = {"cache": 0, "losses": 0, "metrics": 0}
        return nn.scan(
            step,
            variable_axes=axes if self.shared else axes | {"params": 0},
            variable_broadcast="params" if self.shared else False,
            split_rngs={"params": not self.shared, "dropout": True},
            in_axes=nn.broadcast,
            length=self.repeats,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )
