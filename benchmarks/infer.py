"""`inference.infer` in rows that are refilled, beside batches that last as long as their longest completion, in turns.

The 20M decoder of train_step.py with bytes as tokens, random weights, float32. Prompts have 4 to 60 bytes, and their completions
end with a stop id after 8 to 256 tokens, which a processor of the logits draws from the prompt. Both sides give the same tokens.
Turns include tracing, but not compiling: the programs are in a compile cache.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from engine import VOCABULARY, build

import report
from t5x_like import inference, partitioning
from t5x_like.decoding.processors import History
from t5x_like.decoding.sampling import Sample

SHORTEST, LONGEST = 8, 256


def end(logits_BV: jax.Array, history: History) -> jax.Array:
    """Lets a row stop after as many tokens as a hash of its prompt says, and only then."""
    index_T = jnp.arange(history.tokens_BT.shape[1])
    is_prompt_BT = index_T < (history.length_B - history.generated_B)[:, None]
    hash_B = jnp.sum(jnp.where(is_prompt_BT, history.tokens_BT * (7 * index_T + 1), 0), axis=1)
    most_B = SHORTEST + hash_B % (LONGEST - SHORTEST + 1)
    stops_V = jnp.isin(jnp.arange(logits_BV.shape[1]), jnp.array(VOCABULARY.stop_ids))
    return jnp.where(stops_V == (history.generated_B == most_B - 1)[:, None], logits_BV, -jnp.inf)


def make_prompts(count: int) -> list[str]:
    """Texts of small letters."""
    random = np.random.default_rng(0)
    return ["".join(chr(97 + i) for i in random.integers(0, 26, random.integers(4, 61))) for _ in range(count)]


def main() -> None:
    """Runs the benchmark and prints the results."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--prompts", type=int, default=64)
    flags.add_argument("--batch_size", type=int, default=8)
    args = flags.parse_args()
    model, params = build()
    options = inference.DecodingOptions(Sample(), LONGEST, args.batch_size, processors=[end])
    rest = options, partitioning.make_mesh(devices=jax.devices()[:1]), partitioning.RULES
    records = [(index, {"prompt": text}) for index, text in enumerate(make_prompts(args.prompts))]
    sides: dict[str, Callable[[], list]] = {
        "refilled rows": lambda: list(inference.infer_in_rows(model, params, VOCABULARY, iter(records), *rest)),
        "batches": lambda: list(inference.infer_in_batches(model, params, VOCABULARY, iter(records), *rest, ())),
    }
    with tempfile.TemporaryDirectory() as cache:
        jax.config.update("jax_compilation_cache_dir", cache)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        first, results = {}, {}
        for name, side in sides.items():
            began = time.perf_counter(), time.process_time()
            results[name] = [record["tokens"] for record in side()]
            first[name] = time.perf_counter() - began[0], time.process_time() - began[1]
        assert results["refilled rows"] == results["batches"]
        seconds = report.time_interleaved(sides, args.rounds, warmup=0)
    tokens = sum(map(len, results["batches"]))
    figures = {}
    for name, turns in seconds.items():
        wall, cpu = (statistics.median(column) for column in zip(*turns, strict=True))
        figures[name] = {
            "wall s": wall,
            "CPU s": cpu,
            "tokens/s": tokens / wall,
            "first wall s": first[name][0],
            "first CPU s": first[name][1],
        }
    report.print_table(f"{args.prompts} prompts, {tokens} new tokens, {args.batch_size} at once", figures)
    report.print_json(report.describe_cpu(), figures=figures)


if __name__ == "__main__":
    main()
