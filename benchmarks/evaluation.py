"""Tokens per second of a loss evaluation, as `train` and `eval` run it, against a jitted forward pass and loss alone.

The evaluation reads the validation rows of the embedded Python source, pads the last batch and computes every metric. The forward
pass gets the same batches, which are on the device already, and returns the sum of the losses. Models: the 66.5M decoder of
train_step.py, and a small one, which shows what a batch costs besides its computation.
"""

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import train_step
from flax import linen as nn

import report
from t5x_like import partitioning
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.rows import CausalLM
from t5x_like.data.stream import Stream
from t5x_like.evaluation.evaluator import Evaluator, take
from t5x_like.models import architectures, attention, blocks, heads, linear, mlp, positions, stack
from t5x_like.objectives import lm
from t5x_like.types import Params

LENGTH, BATCH = 256, 8


def small_model() -> nn.Module:
    """A decoder of 2 blocks of width 128."""
    block = blocks.Block(mixer=attention.SelfAttention(num_heads=4, head_dim=32), mlp=mlp.Mlp(hidden_dim=512))
    decoder = stack.Stack(block=block, repeats=2, position=positions.Rope(32), scan=False)
    return architectures.DecoderOnly(linear.Embed(384, 128), decoder, heads.Untied())


def forward_pass(model: nn.Module, params: Params, placed: Sequence[Any]) -> Callable[[], float]:
    """The function that computes the losses of batches that are on the device, one batch after the other."""

    @jax.jit
    def loss(params: Params, batch: Any) -> jax.Array:
        logits_BLV = model.apply({"params": params}, batch)
        loss_BL = optax.softmax_cross_entropy_with_integer_labels(logits_BLV, batch["decoder_target_tokens"])
        return jnp.sum(loss_BL * batch["decoder_loss_weights"])

    return lambda: sum(float(loss(params, batch)) for batch in placed)


def compare(name: str, model: nn.Module, rows: CausalLM, batches: int | None, rounds: int) -> dict[str, Any]:
    """Measures one model, and prints its table."""
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    evaluator = Evaluator(model.apply, lm.LanguageModel(), rows, BATCH, mesh, batches=batches)
    read = list(take(Stream(rows, BATCH, shuffle=False).once(), len(evaluator)))
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), read[0])["params"])
    forward = forward_pass(model, params, [jax.device_put(batch) for batch in read])
    tokens = sum(float(batch["decoder_loss_weights"].sum()) for batch in read)
    results = evaluator(params)
    np.testing.assert_allclose(results["loss"], forward() / tokens, rtol=1e-4, err_msg="the losses differ")
    seconds = report.time_interleaved({"evaluation": lambda: evaluator(params), "forward pass": forward}, rounds)
    rates = {side: [tokens / wall for wall, _ in times] for side, times in seconds.items()}
    ratios = [ours / bare for ours, bare in zip(*rates.values(), strict=True)]
    columns = {side: report.summarize(values) for side, values in rates.items()}
    report.print_table(f"{name}: tokens per second, {len(read)} batches of {BATCH} x {LENGTH}", columns)
    return {"ratio": report.summarize(ratios), **{side.replace(" ", "_"): row for side, row in columns.items()}}


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, default=8, help="of the large model; the small one reads all rows")
    args = parser.parse_args()
    cache = TokenCache("python_source_bytes", "validation")
    cache.ensure()
    rows = CausalLM(cache, LENGTH)
    large = compare("66.5M decoder", train_step.build_model(), rows, args.batches, args.rounds)
    small = compare("small decoder", small_model(), rows, None, args.rounds)
    report.print_json(ratio=large["ratio"]["median"], large=large, small=small)


if __name__ == "__main__":
    main()
