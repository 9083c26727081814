"""Induction by size: what a text costs less when it comes again, for models of several widths, while they are trained.

Runs `t5x_like train --gin_file=runs/induction.gin` for every width, and for the widest with one layer, which cannot do it.
A second table reads the last checkpoints: copying the whole text exactly, beside the metrics of single tokens.
What else is given (--gin.STEPS=3000) is handed on to all runs.
"""

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np

import report
from t5x_like import batches
from t5x_like.checkpoints import complete_steps
from t5x_like.cli import setup
from t5x_like.run_dir import RunDir
from t5x_like.scaling.laws.table import from_rows
from t5x_like.scaling.studies import emergence, in_context

COPIED = 12  # tokens of the second copy that make an answer, behind the first four
BEHIND = 4


def train(run_dir: Path, width: int, layers: int, more: list[str]) -> None:
    shape = {"WIDTH": width, "HEAD_DIM": width // 2, "MLP_DIM": 2 * width, "LAYERS": layers}
    # Matrices want a rate that falls as they widen (Yang et al. 2022): at 0.003 width 128 learns it several times later.
    macros = shape | {"RUN_DIR": run_dir, "LEARNING_RATE": min(0.003, 0.192 / width)}
    flags = [f"--gin.{name}={value}" for name, value in macros.items()]
    subprocess.run(
        [sys.executable, "-m", "t5x_like", "train", "--gin_file=runs/induction.gin", *flags, *more], check=True
    )


def answers(period_B: np.ndarray, length: int) -> np.ndarray:
    """1 at the tokens of the second copy that are to be copied."""
    within_BL = np.arange(length) - period_B[:, None]
    return ((within_BL >= BEHIND) & (within_BL < BEHIND + COPIED)).astype(float)


def measured(run_dir: Path) -> tuple[dict[str, float], dict[str, float]]:
    """In-context scores by step, and metrics of the last step, of all validation rows."""
    run, scores = setup.TrainedRun(str(run_dir)), {}
    rows = run.config.evaluate("trainer.train.eval_rows")
    index = np.arange(len(rows))
    batch, period_B = rows.fetch(index, 0 * index, 0), rows.periods(index, 0 * index, 0)
    for run.step in sorted(complete_steps(RunDir(run_dir).checkpoints)):
        params = run.params(batches.abstract(rows, len(rows)))
        logp_BL, right_BL = map(np.asarray, in_context.score_tokens(run.model.apply, params, batch))
        scores[f"step {run.step}"] = in_context.in_context_score(logp_BL, period_B)
    size = {"n_params": sum(x.size for x in jax.tree.leaves(params["decoder"]))}
    return scores, size | emergence.measure_answers(logp_BL, right_BL, answers(period_B, rows.length))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the runs are kept (default: a temporary folder)")
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16, 24, 32, 48, 64, 96, 128])
    args, more = parser.parse_known_args()
    shapes = [(width, 2) for width in sorted(args.widths)] + [(max(args.widths), 1)]
    found = {}
    with tempfile.TemporaryDirectory() as temporary:
        for width, layers in shapes:
            run_dir = Path(args.folder or temporary) / f"{width}x{layers}"
            train(run_dir, width, layers, more)
            found[width, layers] = measured(run_dir)
    names = {(width, layers): f"width {width}, {layers} layer{'s' * (layers > 1)}" for width, layers in shapes}
    report.print_table("in-context score, nats per token", {names[key]: scores for key, (scores, _) in found.items()})
    last = {
        key: row | {"p^L": float(emergence.predict_exact_match([row["token_accuracy"]], COPIED)[0])}
        for key, (_, row) in found.items()
    }
    report.print_table(
        f"copying {COPIED} tokens, at the end of training", {names[key]: row for key, row in last.items()}
    )
    table = from_rows(row for (_, layers), row in last.items() if layers == 2)
    items = int(table["items"][0])
    judged = emergence.analyze_emergence(table, COPIED, items) if len(table) >= 2 * emergence.MIN_SIDE else None
    if judged:
        print(f"\n{judged.verdict}; above chance from (parameters): {judged.threshold}")
        print(
            f"break of the tokens' cost: p = {judged.broken.p_value:.3g}; p^L inside all intervals: {judged.explained}"
        )
    report.print_json(
        scores={names[key]: scores for key, (scores, _) in found.items()}, verdict=judged and judged.verdict
    )


if __name__ == "__main__":
    main()
