"""Pretrains a small byte-level model on Python's own library in about 5 minutes, and shows what it learned.

Prints the validation bits per byte beside what gzip and xz reach on the same bytes, a continuation of `def `, and where
the run and its loss plot are. Running it again goes on where it was stopped.
"""

import argparse
import gzip
import itertools
import json
import lzma
from collections.abc import Sequence
from pathlib import Path

from t5x_like.cli.gin import runtime

RUN_FILE = "runs/quickstart.gin"


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="t5x_like quickstart", description=__doc__)
    parser.add_argument("--run_dir", default="runs/quickstart", help="where the run is kept (default: %(default)s)")
    parser.add_argument("--steps", type=int, help="train this many steps instead of the run file's")
    parser.add_argument("--prompt", default="def ", help="text to be continued (default: %(default)r)")
    runtime.add_flags(parser)
    from t5x_like.cli import setup

    setup.add_flags(parser)
    args = runtime.parse_args(parser, argv)
    setup.initialize(args)
    overrides = [f"--gin.RUN_DIR={args.run_dir!r}"]
    if args.steps:
        overrides += [f"--gin.STEPS={args.steps}", f"--gin.WARMUP_STEPS={max(args.steps // 20, 1)}"]
    config = runtime.parse([RUN_FILE, *args.gin_file], [*overrides, *args.gin_overrides])
    config.configured("trainer.train")(config=config.resolved_config())
    report(args, setup.TrainedRun(args.run_dir))
    return 0


def report(args: argparse.Namespace, run) -> None:
    """Everything that is printed after training."""
    from t5x_like import batches, inference, writers
    from t5x_like.decoding.sampling import Sample
    from t5x_like.evaluation.evaluator import Evaluator
    from t5x_like.progress import track

    rows = run.config.evaluate("trainer.train.eval_rows")
    size = run.config.evaluate("trainer.train.batch_size")
    params = run.params(batches.abstract(rows, size))
    objective = run.config.evaluate("trainer.train.objective")
    measure = Evaluator(run.model.apply, objective, rows, size, run.mesh, run.rules)
    metrics = measure(params, lambda made: track(made, "validation", len(measure)))
    bits = {"this model": metrics["bits_per_byte"]} | compressed(rows.cache)
    print("\nValidation files of the Python library, bits per byte (lower is better):")
    for name, value in bits.items():
        print(f"  {name:<12}{value:6.3f}")
    options = inference.DecodingOptions(Sample(temperature=0.7, top_k=40), max_new_tokens=160)
    completions = inference.infer(run.model, params, run.vocabulary, [args.prompt], options, run.mesh)
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


def compressed(cache) -> dict[str, float]:
    """Bits per byte of gzip -9 and xz -9 on all documents of a cache, one after the other."""
    ids, vocabulary = cache.tokens("targets"), cache.vocabulary
    offsets = cache.offsets("targets")
    text = "".join(vocabulary.decode(ids[a:b]) for a, b in itertools.pairwise(offsets)).encode()
    sizes = {"gzip -9": len(gzip.compress(text, 9)), "xz -9": len(lzma.compress(text, preset=9))}
    return {name: 8.0 * size / len(text) for name, size in sizes.items()}
