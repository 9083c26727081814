"""t5x_like's side of gpu_train.py: train steps of a LLaMA-shaped decoder on packed rows, served in turns (see turns.py).

bfloat16 products, float32 master weights, AdamW; rows come from a synthetic token cache through the data stream.
"""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import steps
import synthetic
from flax import linen as nn

import turns
from t5x_like import batches, optimizers, partitioning
from t5x_like.accounting import flops
from t5x_like.data import rows
from t5x_like.data.stream import Stream
from t5x_like.models import architectures, attention, blocks, heads, kernels, linear, mlp, positions, stack
from t5x_like.objectives import lm
from t5x_like.precision import Precision
from t5x_like.training import loop


def add_shape(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the model's and the batch's shape; the defaults are a decoder of 0.75B parameters."""
    defaults = dict(
        width=2048, layers=12, heads=16, kv_heads=16, mlp_dim=5632, vocab=32128, length=2048, rows=8, steps=5
    )
    for name, value in defaults.items():
        parser.add_argument(f"--{name}", type=int, default=value)


def parse(argv: list[str]) -> argparse.Namespace:
    """Parses the flags of a side."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_shape(parser)
    parser.add_argument("--scan", action="store_true", help="compile one layer and loop over it")
    parser.add_argument("--remat", action="store_true", help="save only matrix products for the backward pass")
    parser.add_argument(
        "--chunk", type=int, help="positions per row whose logits are computed at a time (default: all)"
    )
    parser.add_argument(
        "--packed", type=int, metavar="SEGMENTS", help="cuDNN's kernel for packed rows of so many segments"
    )
    return parser.parse_args(argv)


def build_model(args: argparse.Namespace) -> nn.Module:
    """Builds the decoder from t5x_like's blocks."""
    depth, kernel = args.width // args.heads, kernels.Packed(args.packed) if args.packed else kernels.automatic
    block = blocks.Block(
        mixer=attention.SelfAttention(args.heads, depth, args.kv_heads, kernel=kernel),
        mlp=mlp.Mlp(hidden_dim=args.mlp_dim, activation=nn.silu, gated=True),
    )
    remat = stack.save_products if args.remat else None
    decoder = stack.Stack(block=block, repeats=args.layers, position=positions.Rope(depth), scan=args.scan, remat=remat)
    return architectures.DecoderOnly(linear.Embed(args.vocab, args.width), decoder, heads.Untied())


def build(args: argparse.Namespace) -> tuple[Callable[[int], float], dict[str, Any]]:
    """Returns (a function that runs N steps and returns the last loss, facts about the step)."""
    train_rows = rows.CausalLM(synthetic.make_cache(500), args.length)
    model, precision = build_model(args), Precision(jnp.float32, jnp.bfloat16)
    shapes = batches.abstract(train_rows, args.rows)
    step, layout = steps.build(model, optimizers.adamw(1e-4), shapes, lm.LanguageModel(chunk=args.chunk), precision)
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    fetch = loop.fetcher(Stream(train_rows, args.rows), partitioning.batch_sharding(mesh))
    state, done = layout.create(0), 0

    def run(count: int) -> float:
        nonlocal state, done
        for _ in range(count):
            batch, _ = fetch(done)
            state, metrics = step(state, batch)
            done += 1
        total, weight = metrics["loss"]
        return float(total / weight)

    queries = jax.ShapeDtypeStruct((args.rows, args.length, args.heads, args.width // args.heads), jnp.bfloat16)
    facts = {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "parameters": sum(x.size for x in jax.tree.leaves(state.params)),
        "kernel": kernels.select(queries, None, None).__name__,
        "flops": flops.per_row(model, layout.boxed.params, train_rows.lengths).train * args.rows,
        "peak_flops": flops.peak_per_device()[0],
    }
    return run, facts


def peak_bytes() -> int | None:
    """The most memory that this process has held on the device; None on a CPU."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def main() -> None:
    args = parse(sys.argv[1:])
    run, facts = build(args)
    started = time.perf_counter()
    run(1)
    facts["first step s"] = time.perf_counter() - started
    run(args.steps)
    turns.serve(lambda: run(args.steps), device_bytes=peak_bytes(), **facts)


if __name__ == "__main__":
    main()
