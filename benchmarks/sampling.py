"""Milliseconds to choose the next tokens of 8 rows from 32,128 logits: each sampler, processors, and top-k, top-p by sorting."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

import report
from t5x_like.decoding import processors, sampling

ROWS, VOCAB, HISTORY = 8, 32_128, 512
ROUNDS, CALLS = 10, 5


def sample_by_sorting(keys_B: jax.Array, logits_BV: jax.Array, top_k: int = VOCAB, top_p: float = 1.0) -> jax.Array:
    """Sorts the vocabulary, cuts behind `top_k` tokens and behind the nucleus `top_p`, and samples from the rest."""
    order_BV = jnp.argsort(logits_BV, axis=-1, descending=True)
    sorted_BV = jnp.take_along_axis(logits_BV, order_BV, axis=-1)
    probs_BV = jax.nn.softmax(sorted_BV, axis=-1)
    kept_BV = (jnp.cumsum(probs_BV, axis=-1) - probs_BV < top_p) & (jnp.arange(VOCAB) < top_k)
    place_B = jax.vmap(jax.random.categorical)(keys_B, jnp.where(kept_BV, sorted_BV, -jnp.inf))
    return jnp.take_along_axis(order_BV, place_B[:, None], axis=-1)[:, 0]


def process(processor: processors.Processor, history: processors.History, logits_BV: jax.Array) -> jax.Array:
    """The largest logits after a processor."""
    return jnp.argmax(processor(logits_BV, history), axis=-1)


def main() -> None:
    """Runs the benchmark and prints the results."""
    key = jax.random.key(0)
    keys_B, logits_BV = jax.random.split(key, ROWS), 3 * jax.random.normal(key, (ROWS, VOCAB))
    full_B = jnp.full(ROWS, HISTORY, jnp.int32)
    history = processors.History(jax.random.randint(key, (ROWS, HISTORY), 0, VOCAB), full_B, full_B)
    samplers = {
        "greedy": sampling.Greedy(),
        "temperature": sampling.Sample(0.7),
        "top-k 40": sampling.Sample(top_k=40),
        "top-k 40 by sorting": functools.partial(sample_by_sorting, top_k=40),
        "top-p 0.9": sampling.Sample(top_p=0.9),
        "top-p 0.9 by sorting": functools.partial(sample_by_sorting, top_p=0.9),
        "min-p 0.1": sampling.Sample(min_p=0.1),
        "typical 0.9": sampling.Sample(typical_p=0.9),
    }
    greedy_with = {
        "repetition penalty, greedy": processors.RepetitionPenalty(1.2),
        "no 4-gram twice, greedy": processors.NoRepeatNGram(4),
    }
    sides = {name: repeat(jax.jit(sampler), keys_B, logits_BV) for name, sampler in samplers.items()}
    for name, processor in greedy_with.items():
        sides[name] = repeat(jax.jit(functools.partial(process, processor)), history, logits_BV)
    seconds = report.time_interleaved(sides, ROUNDS)
    rows = {
        name: {f"{kind} ms": 1e3 * x for kind, x in report.summarize([wall / CALLS for wall, _ in times]).items()}
        for name, times in seconds.items()
    }
    report.print_table(f"the next tokens of {ROWS} rows, {VOCAB} logits, history of {HISTORY}", rows)
    report.print_json(sampling=rows)


def repeat(function: Callable[..., jax.Array], *arguments: jax.Array | processors.History) -> Callable[[], None]:
    """A side that calls a function several times, because one call is short."""

    def side() -> None:
        for _ in range(CALLS):
            function(*arguments).block_until_ready()

    return side


if __name__ == "__main__":
    main()
