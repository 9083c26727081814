"""Greedy decoding of the 66.5M decoder of train_step.py, ours and transformers' in turns: batch 8, 64 prompt and 64 new tokens.

Float32. A step generates all new tokens. transformers' `generate` runs with a growing cache (its default) and with a static one,
which lets it compile the forward pass.
"""

import dataclasses

import comparison
import jax
import jax.numpy as jnp
import train_step
from flax import linen as nn

import turns
from t5x_like.accounting import flops
from t5x_like.decoding.loop import generate
from t5x_like.decoding.sampling import Greedy

ROWS, PROMPT, NEW = 8, 64, 64


def serve_ours() -> None:
    """Serves generations by t5x_like, with the FLOPs of one."""
    model, batch = train_step.build_model(), train_step.random_batch(ROWS, PROMPT)
    boxed = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    prompt = flops.per_row(model, boxed, {"decoder": PROMPT}).forward
    new = sum(flops.per_decoded_token(model, boxed, PROMPT + i).forward for i in range(NEW))
    names = ("input_tokens", "positions", "segment_ids")
    inputs = {f"decoder_{name}": jnp.asarray(batch[f"decoder_{name}"]) for name in names}
    keys = jax.random.split(jax.random.PRNGKey(0), ROWS)
    # Without stop ids every row generates all tokens.
    decode = jax.jit(lambda p, b, k: generate(model, p, b, k, Greedy(), NEW, stop_ids=()))
    params = nn.unbox(boxed)

    def step() -> None:
        assert int(decode(params, inputs, keys).lengths_B.sum()) == ROWS * NEW

    turns.serve(step, flops=ROWS * (prompt + new), versions={"jax": jax.__version__})


def main() -> None:
    """Runs the benchmark and prints the results."""
    args = comparison.parser(__doc__).parse_args()
    if args.side:
        return serve_ours()

    sides = {"ours": comparison.our_side("ours")}
    if args.peer:
        flags = {"rows": ROWS, "prompt": PROMPT, "new": NEW, "vocab": train_step.VOCAB}
        flags |= dataclasses.asdict(train_step.Size())
        peers = {"transformers": [], "transformers, static": ["static"], "static, compiled": ["static", "compile"]}
        for name, switches in peers.items():
            sides[name] = comparison.peer_side(args.peer, "decode.py", flags, *switches)
    pairs = [("ours", name) for name in list(sides)[1:]]
    title = f"greedy decoding, 66.5M decoder, batch {ROWS}, {PROMPT} + {NEW} tokens"
    results = comparison.compare(title, sides, pairs, args.rounds, args.peer)
    for name in sides:
        print(f"{name}: {ROWS * NEW / results[name].median('wall'):.0f} new tokens per second")


if __name__ == "__main__":
    main()
