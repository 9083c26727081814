"""Greedy decoding of the 66.5M decoder of train_step.py, ours and transformers' in turns: 64 prompt and 64 new tokens per row.

Float32. A step generates all new tokens, or the first one alone. transformers' `generate` runs with a growing cache (its
default), and with a static one and a compiled forward pass.
"""

import dataclasses

import comparison
import jax
import jax.numpy as jnp
import train_step
from flax import linen as nn

import report
import turns
from t5x_like.accounting import flops
from t5x_like.decoding.loop import generate
from t5x_like.decoding.sampling import Greedy

PROMPT, NEW = 64, 64


def serve_ours(rows: int, new: int) -> None:
    """Serves generations by t5x_like, with the FLOPs of one."""
    model, batch = train_step.build_model(), train_step.random_batch(rows, PROMPT)
    boxed = jax.jit(model.init)(jax.random.key(0), batch)["params"]
    prompt = flops.per_row(model, boxed, {"decoder": PROMPT}).forward
    later = sum(flops.per_decoded_token(model, boxed, PROMPT + i).forward for i in range(new - 1))
    names = ("input_tokens", "positions", "segment_ids")
    inputs = {f"decoder_{name}": jnp.asarray(batch[f"decoder_{name}"]) for name in names}
    keys = jax.random.split(jax.random.PRNGKey(0), rows)
    # Without stop ids every row generates all tokens.
    decode = jax.jit(lambda p, b, k: generate(model, p, b, k, Greedy(), new, stop_ids=()))
    params = nn.unbox(boxed)

    def step() -> None:
        assert int(decode(params, inputs, keys).lengths_B.sum()) == rows * new

    turns.serve(step, flops=rows * (prompt + later), versions={"jax": jax.__version__})


def compare(rows: int, new: int, rounds: int, peer: str | None) -> dict[str, float]:
    """Median wall seconds of `rows` prompts and `new` tokens after each, by side."""
    sides = {"ours": comparison.our_side(f"{rows}x{new}")}
    if peer:
        flags = {"rows": rows, "prompt": PROMPT, "new": new, "vocab": train_step.VOCAB}
        flags |= dataclasses.asdict(train_step.Size())
        peers = {"transformers": [], "static, compiled": ["static", "compile"]}
        for name, switches in peers.items():
            sides[name] = comparison.peer_side(peer, "decode.py", flags, *switches)
    pairs = [("ours", name) for name in list(sides)[1:]]
    title = f"greedy decoding, 66.5M decoder, batch {rows}, {PROMPT} + {new} tokens"
    results = comparison.compare(title, sides, pairs, rounds, peer)
    return {name: results[name].median("wall") for name in sides}


def main() -> None:
    """Runs the benchmark and prints the results."""
    flags = comparison.parser(__doc__)
    flags.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8, 64])
    args = flags.parse_args()
    if args.side:
        return serve_ours(*map(int, args.side.split("x")))

    rates, first = {}, {}
    for rows in args.batch_sizes:
        seconds, name = compare(rows, NEW, args.rounds, args.peer), f"batch {rows}"
        rates[name] = {side: rows * NEW / wall for side, wall in seconds.items()}
        first[name] = compare(rows, 1, args.rounds, args.peer)
    report.print_table(f"new tokens per second, {PROMPT} + {NEW} tokens", rates)
    report.print_table("seconds to the first token", first)
    report.print_json(report.describe_cpu(), tokens_per_second=rates, seconds_to_first_token=first)


if __name__ == "__main__":
    main()
