"""A block is sublayers with residual connections and norms; a pattern of blocks is itself a block."""

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn

from t5x_like.models.context import Context
from t5x_like.models.norms import RMSNorm

Sublayers = Sequence[tuple[str, Callable]]  # name and `x_BLD -> y_BLD`


def pre(x_BLD: jax.Array, sublayers: Sublayers, norm: Callable) -> jax.Array:
    """x + f(norm(x)) for each sublayer."""
    for name, layer in sublayers:
        x_BLD = x_BLD + layer(norm(f"{name}_norm")(x_BLD))
    return x_BLD


def post(x_BLD: jax.Array, sublayers: Sublayers, norm: Callable) -> jax.Array:
    """norm(x + f(x)) for each sublayer."""
    for name, layer in sublayers:
        x_BLD = norm(f"{name}_norm")(x_BLD + layer(x_BLD))
    return x_BLD


def sandwich(x_BLD: jax.Array, sublayers: Sublayers, norm: Callable) -> jax.Array:
    """x + norm(f(norm(x))) for each sublayer."""
    for name, layer in sublayers:
        x_BLD = x_BLD + norm(f"{name}_post_norm")(layer(norm(f"{name}_norm")(x_BLD)))
    return x_BLD


def after(x_BLD: jax.Array, sublayers: Sublayers, norm: Callable) -> jax.Array:
    """x + norm(f(x)) for each sublayer (OLMo 2)."""
    for name, layer in sublayers:
        x_BLD = x_BLD + norm(f"{name}_norm")(layer(x_BLD))
    return x_BLD


def parallel(x_BLD: jax.Array, sublayers: Sublayers, norm: Callable) -> jax.Array:
    """x + the sum of all f(norm(x)), one norm for all (GPT-J, PaLM)."""
    y_BLD = norm("shared_norm")(x_BLD)
    return x_BLD + sum(layer(y_BLD) for _, layer in sublayers)


def parallel_own_norms(x_BLD: jax.Array, sublayers: Sublayers, norm: Callable) -> jax.Array:
    """x + the sum of all f(norm(x)), a norm for each (GPT-NeoX, Falcon 40B)."""
    return x_BLD + sum(layer(norm(f"{name}_norm")(x_BLD)) for name, layer in sublayers)


class Block(nn.Module):
    """Mixer, optional cross-attention and optional MLP, joined as `placement` says."""

    mixer: nn.Module
    mlp: nn.Module | None = None
    cross: nn.Module | None = None
    norm: nn.Module = RMSNorm()
    placement: Callable = pre
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x_BLD: jax.Array, ctx: Context) -> jax.Array:
        drop = nn.Dropout(self.dropout, deterministic=not ctx.train)

        def applied(layer):
            return lambda x_BLD: drop(layer(x_BLD, ctx))

        present = {"mixer": self.mixer, "cross": self.cross, "mlp": self.mlp}
        sublayers = [(name, applied(layer)) for name, layer in present.items() if layer is not None]
        return self.placement(x_BLD, sublayers, lambda name: self.norm.copy(name=name))


class Positioned(nn.Module):
    """A block with a position encoding of its own: local and global layers that rotate differently (Gemma 3), a relative
    bias in every layer (umT5)."""

    position: nn.Module
    block: nn.Module

    def __call__(self, x_BLD: jax.Array, ctx: Context) -> jax.Array:
        return self.block(*self.position(x_BLD, ctx))


class Pattern(nn.Module):
    """Blocks one after the other, itself a block: every other layer MoE, local and global attention, hybrids."""

    blocks: Sequence[nn.Module]

    def __call__(self, x_BLD: jax.Array, ctx: Context) -> jax.Array:
        for block in self.blocks:
            x_BLD = block(x_BLD, ctx)
        return x_BLD
