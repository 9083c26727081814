"""Pretrains a small byte-level model on Python's own library in about 5 minutes, and shows what it learned.

Prints the validation bits per byte next to those of gzip and xz, a continuation of `def `, and the paths of the run and its
loss plot. Running it again resumes an interrupted run.
"""

import argparse
import gzip
import itertools
import json
import lzma
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from t5x_like import interrupts
from t5x_like.cli import flags
from t5x_like.cli.gin import runtime

if TYPE_CHECKING:
    from t5x_like.cli import setup
    from t5x_like.data.cache.token_cache import TokenCache

RUN_FILE = "runs/quickstart.gin"


def main(argv: Sequence[str]) -> int:
    """Runs `t5x_like quickstart`."""
    parser = flags.Parser(prog="t5x_like quickstart", description=__doc__)
    parser.add_argument("--run_dir", default="runs/quickstart", help="directory of the run (default: %(default)s)")
    parser.add_argument("--steps", type=flags.positive, help="number of training steps (default: the run file's)")
    parser.add_argument("--prompt", default="def ", help="text to continue (default: %(default)r)")
    runtime.add_flags(parser)
    flags.add_machine(parser)
    args = runtime.parse_args(parser, argv)
    from t5x_like.cli import setup

    setup.initialize(args)
    overrides = [f"--gin.RUN_DIR={args.run_dir!r}"]
    if args.steps:
        overrides += [f"--gin.STEPS={args.steps}", f"--gin.WARMUP_STEPS={max(args.steps // 20, 1)}"]
    args.gin_overrides = [*overrides, *args.gin_overrides]
    config = runtime.from_flags(args, first=[RUN_FILE])
    with interrupts.explain("stopped before the first step; the same command starts again"):
        config.bind("trainer.train")(config=config.resolved_config())
    print_report(args, setup.TrainedRun(args.run_dir, allowed=sorted(config.names.modules)))
    return 0


def print_report(args: argparse.Namespace, run: "setup.TrainedRun") -> None:
    """Prints the validation results, a completion and the next commands."""
    from t5x_like import batches, inference, writers
    from t5x_like.decoding.sampling import Sample
    from t5x_like.evaluation.evaluator import Evaluator
    from t5x_like.progress import track

    rows = run.config.evaluate("trainer.train.evaluation").rows
    size = run.config.evaluate("trainer.train.batch_size")
    params = run.params(batches.abstract(rows, size))
    objective = run.config.evaluate("trainer.train.objective")
    evaluator = Evaluator(run.model.apply, objective, rows, size, run.mesh, run.rules)
    metrics = evaluator(params, lambda items: track(items, "validation", len(evaluator)))
    bits = {"this model": metrics["bits_per_byte"]} | compressed_bits(rows.cache)
    print("\nValidation files of the Python library, bits per byte (lower is better):")
    for name, value in bits.items():
        print(f"  {name:<12}{value:6.3f}")
    options = inference.DecodingOptions(Sample(temperature=0.7, top_k=40), max_new_tokens=160)
    completions = inference.infer(run.model, params, run.require_vocabulary(), [args.prompt], options, run.mesh)
    print(f"\nA continuation of {args.prompt!r}:\n")
    for line in (args.prompt + next(iter(completions))["completion"]).splitlines():
        print(f"    {line}")
    folder = Path(args.run_dir)
    (folder / "quickstart.json").write_text(json.dumps({"bits_per_byte": bits, "step": run.step}) + "\n")
    print(f"\nRun directory: {folder}\nLoss plot:     {writers.plot_losses(folder)}\n")
    print("What to try next:")
    print(f"  t5x_like infer --run_dir={folder} --prompt='class '           # sample from it")
    print(f"  t5x_like eval --run_dir={folder} --gin.TASK=python_docs_bytes  # measure it on English")
    print("  t5x_like train --help                                         # your own model, task and size")


def compressed_bits(cache: "TokenCache") -> dict[str, float]:
    """Bits per byte of gzip -9 and xz -9 on the concatenated documents of a cache."""
    ids, vocabulary = cache.tokens("targets"), cache.vocabulary
    offsets = cache.offsets("targets")
    text = "".join(vocabulary.decode(ids[a:b]) for a, b in itertools.pairwise(offsets)).encode()
    sizes = {"gzip -9": len(gzip.compress(text, 9)), "xz -9": len(lzma.compress(text, preset=9))}
    return {name: 8.0 * size / len(text) for name, size in sizes.items()}
