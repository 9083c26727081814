"""Blocks: sublayers with residual connections and norms. A pattern of blocks is itself a block."""

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn

from t5x_like.models.context import Context
from t5x_like.models.norms import RMSNorm

Sublayers = Sequence[tuple[str, Callable[[jax.Array], jax.Array]]]  # (name, `x_BLD -> y_BLD`)
MakeNorm = Callable[[str], Callable[[jax.Array], jax.Array]]  # name -> norm


def pre(x_BLD: jax.Array, sublayers: Sublayers, norm: MakeNorm) -> jax.Array:
    """x + f(norm(x)) for each sublayer."""
    for name, layer in sublayers:
        x_BLD = x_BLD + layer(norm(f"{name}_norm")(x_BLD))
    return x_BLD


def post(x_BLD: jax.Array, sublayers: Sublayers, norm: MakeNorm) -> jax.Array:
    """norm(x + f(x)) for each sublayer."""
    for name, layer in sublayers:
        x_BLD = norm(f"{name}_norm")(x_BLD + layer(x_BLD))
    return x_BLD


def sandwich(x_BLD: jax.Array, sublayers: Sublayers, norm: MakeNorm) -> jax.Array:
    """x + norm(f(norm(x))) for each sublayer."""
    for name, layer in sublayers:
        x_BLD = x_BLD + norm(f"{name}_post_norm")(layer(norm(f"{name}_norm")(x_BLD)))
    return x_BLD


def after(x_BLD: jax.Array, sublayers: Sublayers, norm: MakeNorm) -> jax.Array:
    """x + norm(f(x)) for each sublayer (OLMo 2)."""
    for name, layer in sublayers:
        x_BLD = x_BLD + norm(f"{name}_norm")(layer(x_BLD))
    return x_BLD


def parallel(x_BLD: jax.Array, sublayers: Sublayers, norm: MakeNorm) -> jax.Array:
    """x + sum of f(norm(x)) over sublayers, with one norm for all (GPT-J, PaLM)."""
    y_BLD = norm("shared_norm")(x_BLD)
    return x_BLD + sum(layer(y_BLD) for _, layer in sublayers)


def parallel_own_norms(x_BLD: jax.Array, sublayers: Sublayers, norm: MakeNorm) -> jax.Array:
    """x + sum of f(norm(x)) over sublayers, with a norm for each (GPT-NeoX, Falcon 40B)."""
    return x_BLD + sum(layer(norm(f"{name}_norm")(x_BLD)) for name, layer in sublayers)


class Block(nn.Module):
    """Mixer, optional cross-attention and optional MLP; `placement` (e.g. `pre`) combines them with norms and residuals.

    Adapters, `(y_BLD, x_BLD) -> y_BLD` of a sublayer's output y and input x, are for tuning with the rest frozen (`bottleneck`).
    They are fields, not modules around the sublayers, so that the paths of the model's own parameters do not change. One
    instance in two fields is one adapter.
    """

    mixer: nn.Module
    mlp: nn.Module | None = None
    cross: nn.Module | None = None
    norm: nn.Module = RMSNorm()
    placement: Callable = pre
    dropout: float = 0.0
    mixer_adapter: nn.Module | None = None
    cross_adapter: nn.Module | None = None
    mlp_adapter: nn.Module | None = None

    @nn.compact
    def __call__(self, x_BLD: jax.Array, ctx: Context) -> jax.Array:
        drop = nn.Dropout(self.dropout, deterministic=not ctx.train)

        def bind(name: str, layer: nn.Module) -> Callable[[jax.Array], jax.Array]:
            adapter = adapters[name]
            if adapter is None:
                return lambda x_BLD: drop(layer(x_BLD, ctx))
            return lambda x_BLD: drop(adapter(layer(x_BLD, ctx), x_BLD))

        adapters = {"mixer": self.mixer_adapter, "cross": self.cross_adapter, "mlp": self.mlp_adapter}
        present = {"mixer": self.mixer, "cross": self.cross, "mlp": self.mlp}
        sublayers = [(name, bind(name, layer)) for name, layer in present.items() if layer is not None]
        return self.placement(x_BLD, sublayers, lambda name: self.norm.copy(name=name))


class Positioned(nn.Module):
    """A block with its own position encoding: local and global layers with different rotations (Gemma 3), a relative bias in
    every layer (umT5)."""

    position: nn.Module
    block: nn.Module

    def __call__(self, x_BLD: jax.Array, ctx: Context) -> jax.Array:
        return self.block(*self.position(x_BLD, ctx))


class Pattern(nn.Module):
    """A sequence of blocks, itself a block: alternating MoE layers, local and global attention, hybrids."""

    blocks: Sequence[nn.Module]

    def __call__(self, x_BLD: jax.Array, ctx: Context) -> jax.Array:
        for block in self.blocks:
            x_BLD = block(x_BLD, ctx)
        return x_BLD
