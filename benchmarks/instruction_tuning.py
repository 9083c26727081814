"""Instruction tuning end to end: pretraining, instruction tuning, and the gain on held-out tasks.

Runs three commands: `t5x_like train` on English text, `t5x_like train` with runs/sft.gin on generated tasks, and `t5x_like
eval --against`. Prints the exact match on training tasks and on held-out tasks, with 95% confidence intervals of the paired
difference. A stopped run resumes.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import report

MODEL = ("sizes/llama/tiny.gin", "optimizers/adamw.gin")
SHAPE = {"WIDTH": 128, "LAYERS": 4, "HEADS": 2, "HEAD_DIM": 64, "MLP_DIM": 384, "LENGTH": 256}
SUITES = {
    "tuned on": "instruction_worlds_together_bytes",
    "held out": "instruction_worlds_held_out_together_bytes",
}


def command(name: str, files: Sequence[str], macros: dict, *flags: str) -> list[str]:
    """Returns the command line of a t5x_like command."""
    gin = [f"--gin_file={file}" for file in files] + [f"--gin.{macro}={value}" for macro, value in macros.items()]
    return [sys.executable, "-m", "t5x_like", name, *gin, *flags]


def train(folder: Path, pretrain_steps: int, tune_steps: int) -> tuple[Path, Path]:
    """Trains the base and the tuned model, and returns their run directories."""
    base, tuned = folder / "base", folder / "tuned"
    hyperparameters = {"BATCH_SIZE": 8, "WARMUP_STEPS": 50, "LEARNING_RATE": 0.004}
    text = ("tasks/python_docs_bytes.gin", "objectives/causal_lm.gin", "runs/pretrain.gin")
    macros = SHAPE | hyperparameters | {"RUN_DIR": base, "STEPS": pretrain_steps}
    subprocess.run(command("train", [*MODEL, *text], macros), check=True)
    instructions = ("tasks/instruction_worlds_bytes.gin", "runs/sft.gin")
    macros = SHAPE | hyperparameters | {"RUN_DIR": tuned, "INITIAL": base, "STEPS": tune_steps}
    subprocess.run(command("train", [*MODEL, *instructions], macros), check=True)
    return base, tuned


def compare(base: Path, tuned: Path, task: str, examples: int) -> dict[str, float]:
    """Returns the exact match before and after tuning, in percent, and the interval of the difference."""
    against = [f"--run_dir={tuned}", f"--against={base}", f"--tasks={task}", f"--examples={examples}", "--json"]
    flags = [*against, "--module=t5x_like.tasks.mixtures", "--max_new_tokens=24"]
    done = subprocess.run(command("eval", (), {}, *flags), check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Runs the benchmark and prints its results as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="folder of the runs (default: a temporary folder)")
    parser.add_argument("--pretrain_steps", type=int, default=300)
    parser.add_argument("--tune_steps", type=int, default=2000)
    parser.add_argument("--examples", type=int, default=400, help="questions per suite (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base, tuned = train(Path(args.folder or temporary), args.pretrain_steps, args.tune_steps)
        results = {name: compare(base, tuned, task, args.examples) for name, task in SUITES.items()}
    print(json.dumps(results, indent=1))
    report.print_json(**{name.replace(" ", "_"): x for name, x in results.items()})


if __name__ == "__main__":
    main()
