"""Induction by size: how much less the second copy of a text costs, for models of several widths during training.

Runs `t5x_like train --gin_file=runs/induction.gin` for every width, and for the largest width with one layer, which cannot
learn it. A second table evaluates the last checkpoints: exact copies of a text, and the metrics of single tokens. Other
arguments (--gin.STEPS=3000) are passed to all runs.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
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

ANSWER_TOKENS = 12  # tokens of the second copy that form an answer, after SKIPPED tokens
SKIPPED = 4


def train(run_dir: Path, width: int, layers: int, arguments: Sequence[str]) -> None:
    """Trains a model in a process of its own."""
    shape = {"WIDTH": width, "HEAD_DIM": width // 2, "MLP_DIM": 2 * width, "LAYERS": layers}
    # The learning rate of matrices falls with width (Yang et al. 2022): at 0.003, width 128 takes several times as many steps.
    macros = shape | {"RUN_DIR": run_dir, "LEARNING_RATE": min(0.003, 0.192 / width)}
    flags = [f"--gin.{name}={value}" for name, value in macros.items()]
    command = [sys.executable, "-m", "t5x_like", "train", "--gin_file=runs/induction.gin", *flags, *arguments]
    subprocess.run(command, check=True)


def answer_weights(period_B: np.ndarray, length: int) -> np.ndarray:
    """Returns 1 [B, L] at the answer's tokens in the second copy, else 0."""
    position_BL = np.arange(length) - period_B[:, None]
    return ((position_BL >= SKIPPED) & (position_BL < SKIPPED + ANSWER_TOKENS)).astype(float)


def evaluate(run_dir: Path) -> tuple[dict[str, float], dict[str, float]]:
    """Returns in-context scores by step, and metrics of the last step, over all validation rows."""
    run, scores = setup.TrainedRun(str(run_dir)), {}
    rows = run.config.evaluate("trainer.train.evaluation").rows
    index = np.arange(len(rows))
    batch, period_B = rows.fetch(index, 0 * index, 0), rows.periods(index, 0 * index, 0)
    for run.step in sorted(complete_steps(RunDir(run_dir).checkpoints)):
        params = run.params(batches.abstract(rows, len(rows)))
        logp_BL, correct_BL = map(np.asarray, in_context.score_tokens(run.model.apply, params, batch))
        scores[f"step {run.step}"] = in_context.in_context_score(logp_BL, period_B)
    size = {"n_params": sum(x.size for x in jax.tree.leaves(params["decoder"]))}
    return scores, size | emergence.measure_answers(logp_BL, correct_BL, answer_weights(period_B, rows.length))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="folder of the runs (default: a temporary folder)")
    parser.add_argument("--widths", type=int, nargs="+", default=[8, 16, 24, 32, 48, 64, 96, 128])
    args, arguments = parser.parse_known_args()
    shapes = [(width, 2) for width in sorted(args.widths)] + [(max(args.widths), 1)]
    results = {}
    with tempfile.TemporaryDirectory() as temporary:
        for width, layers in shapes:
            run_dir = Path(args.folder or temporary) / f"{width}x{layers}"
            train(run_dir, width, layers, arguments)
            results[width, layers] = evaluate(run_dir)
    names = {(width, layers): f"width {width}, {layers} layer{'s' * (layers > 1)}" for width, layers in shapes}
    scores = {names[key]: scores for key, (scores, _) in results.items()}
    report.print_table("in-context score, nats per token", scores)
    last = {
        key: row | {"p^L": float(emergence.predict_exact_match([row["token_accuracy"]], ANSWER_TOKENS)[0])}
        for key, (_, row) in results.items()
    }
    title = f"copying {ANSWER_TOKENS} tokens, at the end of training"
    report.print_table(title, {names[key]: row for key, row in last.items()})
    table = from_rows(row for (_, layers), row in last.items() if layers == 2)
    verdict = None
    if len(table) >= 2 * emergence.MIN_SIDE:
        result = emergence.analyze_emergence(table, ANSWER_TOKENS, int(table["items"][0]))
        verdict = result.verdict
        print(f"\n{verdict}; above chance from (parameters): {result.threshold}")
        p_value = result.best_break.p_value
        print(f"break of the token cost: p = {p_value:.3g}; p^L inside all intervals: {result.explained}")
    report.print_json(scores=scores, verdict=verdict)


if __name__ == "__main__":
    main()
