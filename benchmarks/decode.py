"""Greedy decoding speed of the 66.5M decoder of train_step.py: batch 8, 64 prompt and 64 new tokens, float32.

A chain of matrix products runs alternately, as a measure of the machine at the same time.
"""

import argparse

import jax
import jax.numpy as jnp
import train_step
from flax import linen as nn

import report
from t5x_like.decoding.loop import generate
from t5x_like.decoding.sampling import Greedy

ROWS, PROMPT, NEW = 8, 64, 64


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model, batch = train_step.build_model(), train_step.random_batch(ROWS, PROMPT)
    prompt = {name: jnp.asarray(batch[f"decoder_{name}"]) for name in ("input_tokens", "positions", "segment_ids")}
    prompt = {f"decoder_{name}": x for name, x in prompt.items()}
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), batch)["params"])
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    keys = jax.random.split(jax.random.PRNGKey(0), ROWS)
    # Without stop ids every row generates all tokens.
    decode = jax.jit(lambda p, b, k: generate(model, p, b, k, Greedy(), NEW, stop_ids=()))
    a = jnp.eye(1024)
    chain = jax.jit(lambda a: jax.lax.fori_loop(0, 100, lambda _, x: jnp.tanh(x @ a), a))

    lengths = []
    sides = {
        "decode": lambda: lengths.append(int(decode(params, prompt, keys).lengths_B.sum())),
        "products": lambda: chain(a).block_until_ready(),
    }
    seconds = report.time_interleaved(sides, args.rounds)
    assert set(lengths) == {ROWS * NEW}
    rates = report.summarize([ROWS * NEW / wall for wall, _ in seconds["decode"]])
    cpu = report.summarize([c for _, c in seconds["decode"]])["median"]
    report.print_table(f"new tokens per second, {size / 1e6:.0f} MB of parameters", {"decode": rates | {"CPU s": cpu}})
    gflops = report.summarize([100 * 2 * 1.024**3 / wall for wall, _ in seconds["products"]])["median"]
    print(f"at the same time, 100 products of 1024^3: {gflops:.0f} GFLOP/s")
    report.print_json(tokens_per_second=rates["median"], product_gflops=gflops, **rates)


if __name__ == "__main__":
    main()
