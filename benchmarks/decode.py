"""New tokens a second, greedy, batch 8, 64 prompt + 64 new, of the 66.5M decoder of train_step.py, float32.

Beside it, alternately: reading every parameter once per step (what memory allows), as matrix-vector products.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import train_step
from flax import linen as nn

import report
from t5x_like.decoding.loop import generate
from t5x_like.decoding.sampling import Greedy

ROWS, PROMPT, NEW = 8, 64, 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    model, batch = train_step.our_model(), train_step.synthetic(ROWS, PROMPT)
    prompt = {name: jnp.asarray(batch[f"decoder_{name}"]) for name in ("input_tokens", "positions", "segment_ids")}
    prompt = {f"decoder_{name}": x for name, x in prompt.items()}
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), batch)["params"])
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    keys = jax.random.split(jax.random.PRNGKey(0), ROWS)
    # No token ends a row, so that all of them are generated.
    decode = jax.jit(lambda p, b, k: generate(model, p, b, k, Greedy(), NEW, eos=-1))
    side = 4096
    weights = jnp.ones((size // 4 // side, side))

    @jax.jit
    def read(x):
        return jax.lax.fori_loop(0, NEW, lambda _, x: (x @ weights.T)[:, :side].sum() * 1e-9 + x, x)

    lengths = []
    sides = {
        "decode": lambda: lengths.append(int(decode(params, prompt, keys).lengths_B.sum())),
        "parameters read": lambda: read(jnp.ones((ROWS, side))).block_until_ready(),
    }
    seconds = report.interleaved(sides, args.rounds)
    assert set(lengths) == {ROWS * NEW}
    rates = {name: report.spread([ROWS * NEW / wall for wall, _ in times]) for name, times in seconds.items()}
    report.show(f"new tokens a second, {size / 1e6:.0f} MB of parameters", rates)
    bandwidth = np.median([NEW * size / wall for wall, _ in seconds["parameters read"]])
    print(f"parameters read at {bandwidth / 1e9:.1f} GB/s")
    report.finish(
        tokens_per_second=rates["decode"]["median"],
        ratio=rates["decode"]["median"] / rates["parameters read"]["median"],
        **rates["decode"],
    )


if __name__ == "__main__":
    main()
