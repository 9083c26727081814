"""What the training loop adds to the compiled step of a small model: microseconds per step.

Small models are those of ladders and of the quickstart. The loop makes batches in a thread, monitors the loss and logs every
10 steps. The compiled step runs alone on one batch; a step is dispatched before the last one is waited for, as in the loop. Both
sides run in turns, in one process. Trials of a sweep have a core each: taskset -c 0 python benchmarks/small_step.py
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import jax
import steps

import report
from t5x_like import batches, optimizers
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.rows import CausalLM
from t5x_like.data.stream import Stream
from t5x_like.models import architectures, attention, blocks, heads, linear, mlp, positions, stack
from t5x_like.objectives import lm
from t5x_like.training import trainer
from t5x_like.types import Model

SIZES = {"18k": (24, 2, 16), "108k": (64, 2, 16), "0.4M": (128, 2, 32)}  # width, layers, head dim


def build_model(width: int, layers: int, head_dim: int) -> Model:
    """A decoder over bytes."""
    mixer = attention.SelfAttention(num_heads=max(width // head_dim, 1), head_dim=head_dim)
    block = blocks.Block(mixer=mixer, mlp=mlp.Mlp(hidden_dim=8 * width // 3, gated=True))
    decoder = stack.Stack(block=block, repeats=layers, position=positions.Rope(head_dim), scan=False)
    return architectures.DecoderOnly(linear.Embed(384, width), decoder, heads.Untied())


class Loop:
    """Trains for `count` steps, and returns the median of the seconds per step that it logs."""

    def __init__(self, model: Model, rows: CausalLM, batch: int, count: int) -> None:
        self.model, self.rows, self.batch, self.count = model, rows, batch, count

    def __call__(self) -> float:
        with tempfile.TemporaryDirectory() as folder:
            keep = trainer.Checkpointing(every=10**9)
            optimizer = optimizers.adamw(1e-3)
            trainer.train(
                folder, self.model, lm.LanguageModel(), optimizer, self.rows, self.count, self.batch, checkpointing=keep
            )
            lines = (Path(folder) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        seconds = [json.loads(line)["speed/step_seconds"] for line in lines]
        return statistics.median(seconds[2:])


class Bare:
    """Calls the compiled step `count` times, and returns the median of the seconds per step, taken over 10 at a time."""

    def __init__(self, model: Model, rows: CausalLM, batch: int, count: int) -> None:
        self.step, layout = steps.build(model, optimizers.adamw(1e-3), batches.abstract(rows, batch))
        self.state, self.count = layout.create(0), count
        self.batch, self.last = Stream(rows, batch)[0], None

    def __call__(self) -> float:
        seconds = []
        for _ in range(self.count // 10):
            started = time.perf_counter()
            for _ in range(10):
                self.state, metrics = self.step(self.state, self.batch)
                _, self.last = jax.block_until_ready(self.last), metrics
            seconds.append((time.perf_counter() - started) / 10)
        return statistics.median(seconds[2:])


def main() -> None:
    """Runs the benchmark and prints the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("sizes", nargs="*", default=list(SIZES))
    args = parser.parse_args()
    cache = TokenCache("python_source_bytes", "validation")
    cache.ensure()
    rows = CausalLM(cache, args.length)
    table = {}
    for size in args.sizes:
        model = build_model(*SIZES[size])
        sides = {side.__name__: side(model, rows, args.batch, args.steps) for side in (Loop, Bare)}
        for side in sides.values():
            side()  # compiles
        found: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(args.rounds):
            for name, side in sides.items():
                found[name].append(1e6 * side())
        added = [loop - bare for loop, bare in zip(*found.values(), strict=True)]
        columns = {"train": found["Loop"], "compiled step": found["Bare"], "added": added}
        table[size] = {name: report.summarize(values) for name, values in columns.items()}
        report.print_table(
            f"{size} parameters: microseconds per step of {args.batch} x {args.length} tokens", table[size]
        )
    report.print_json(**table)


if __name__ == "__main__":
    main()
