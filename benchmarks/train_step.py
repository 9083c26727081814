"""The train step of a decoder: ours, one written by hand in JAX (hand_written.py) and PyTorch's, in turns.

LLaMA's shape with heads of 64, vocabulary 32128 untied, batch 8 x 256, float32, AdamW, no rematerialisation.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import comparison
import hand_written
import jax
import jax.numpy as jnp
import numpy as np
import steps
from flax import linen as nn
from hand_written import VOCAB, Batch, random_batch
from steps import Steps

import turns
from t5x_like import optimizers
from t5x_like.models import architectures, attention, blocks, heads, linear, mlp, positions, stack
from t5x_like.types import Params

HEAD_DIM = hand_written.HEAD_DIM


@dataclasses.dataclass(frozen=True)
class Size:
    """The shape of a decoder."""

    width: int = 512
    layers: int = 8
    heads: int = 8
    mlp_dim: int = 2048


SIZES = {"66.5M": Size(), "20M": Size(width=256, layers=4, heads=4, mlp_dim=1024)}
ADAMW = optimizers.adamw(
    hand_written.LEARNING_RATE,
    b1=hand_written.B1,
    b2=hand_written.B2,
    eps=hand_written.EPSILON,
    weight_decay=hand_written.WEIGHT_DECAY,
    clip_norm=None,
)


def build_model(size: Size = SIZES["66.5M"]) -> nn.Module:
    """Builds the decoder from t5x_like's blocks."""
    block = blocks.Block(
        mixer=attention.SelfAttention(num_heads=size.heads, head_dim=HEAD_DIM),
        mlp=mlp.Mlp(hidden_dim=size.mlp_dim, activation=nn.silu, gated=True),
    )
    decoder = stack.Stack(block=block, repeats=size.layers, position=positions.Rope(HEAD_DIM), scan=False)
    return architectures.DecoderOnly(linear.Embed(VOCAB, size.width), decoder, heads.Untied())


def build_step(batch: Batch, size: Size = SIZES["66.5M"]) -> tuple[Callable, Any]:
    """Returns (step, state) of t5x_like on one device."""
    step, layout = steps.build(build_model(size), ADAMW, jax.eval_shape(lambda: batch))
    return step, layout.create(0)


def convert_params(params: Params) -> dict[str, Any]:
    """Copies parameters to the hand-written layout: 2-d matrices, a list of layers, the head as [D, V]."""

    def layer(p: Params) -> dict[str, jax.Array]:
        dense = {name: p["mlp"][name]["kernel"] for name in ("gate", "up", "down")}
        inputs = {name[0]: p["mixer"][name]["kernel"] for name in ("query", "key", "value")}
        inputs = {name: kernel.reshape(len(kernel), -1) for name, kernel in inputs.items()}
        out = p["mixer"]["out"]["kernel"]
        norms = {"norm1": p["mixer_norm"]["scale"], "norm2": p["mlp_norm"]["scale"]}
        return inputs | dense | norms | {"o": out.reshape(-1, out.shape[-1])}

    stacked = params["decoder"]
    tree = {
        "embed": params["embed"]["table"],
        "head": params["head"]["table"].T,
        "norm": stacked["norm"]["scale"],
        "layers": [layer(stacked[f"layer_{i}"]) for i in range(len(stacked) - 1)],
    }
    return jax.tree.map(jnp.copy, tree)


def serve_hand_written(batch: Batch, size: Size) -> None:
    """Serves the hand-written step, from the parameters that t5x_like's step starts with."""
    _, state = build_step(batch, size)
    begin = hand_written.init_state(convert_params(state.params))
    step = jax.jit(hand_written.train_step, donate_argnums=0)
    turns.serve(Steps(step, begin, jax.device_put(batch), lambda loss: loss), versions={"jax": jax.__version__})


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = comparison.parser(__doc__)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--size", choices=SIZES, default="66.5M")
    args = parser.parse_args()
    size, batch = SIZES[args.size], random_batch(args.rows, args.length)
    if args.side == "ours":
        return steps.serve(build_model(size), ADAMW, batch)
    if args.side == "hand-written":
        return serve_hand_written(batch, size)

    sides = {name: comparison.our_side(name) for name in ("ours", "hand-written")}
    if args.peer:
        flags = {"rows": args.rows, "length": args.length, "vocab": VOCAB} | dataclasses.asdict(size)
        sides["torch eager"] = comparison.peer_side(args.peer, "train_step.py", flags)
        sides["torch.compile"] = comparison.peer_side(args.peer, "train_step.py", flags, "compile")
    title = f"train step, {args.size} decoder, batch {args.rows} x {args.length}"
    results = comparison.compare(title, sides, [("ours", name) for name in list(sides)[1:]], args.rounds, args.peer)
    comparison.check_first_losses(results, VOCAB)
    losses = [results[name].facts["losses"] + results[name].all("loss") for name in ("ours", "hand-written")]
    np.testing.assert_allclose(*losses, rtol=1e-3, err_msg="the two steps compute different losses")


if __name__ == "__main__":
    main()
