"""Instruction tuning from end to end: pretrain, tune on instructions, and the rise on tasks that were held out of them.

Three commands, as a user gives them: `t5x_like train` on English text, `t5x_like train` with runs/sft.gin on generated
worlds, `t5x_like eval --against`. Exact match on tasks of the kinds that were tuned on and on held-out ones, with 95%
intervals of the difference over the same questions. A run that was stopped goes on.
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
    """A t5x_like command as a user gives it."""
    gin = [f"--gin_file={file}" for file in files] + [f"--gin.{macro}={value}" for macro, value in macros.items()]
    return [sys.executable, "-m", "t5x_like", name, *gin, *flags]


def train(folder: Path, pretrain_steps: int, tune_steps: int) -> tuple[Path, Path]:
    """The run directories of the base and of the tuned model."""
    base, tuned = folder / "base", folder / "tuned"
    speed = {"BATCH_SIZE": 8, "WARMUP_STEPS": 50, "LEARNING_RATE": 0.004}
    text = ("tasks/python_docs_bytes.gin", "objectives/causal_lm.gin", "runs/pretrain.gin")
    macros = SHAPE | speed | {"RUN_DIR": base, "STEPS": pretrain_steps}
    subprocess.run(command("train", [*MODEL, *text], macros), check=True)
    instructions = ("tasks/instruction_worlds_bytes.gin", "runs/sft.gin")
    macros = SHAPE | speed | {"RUN_DIR": tuned, "INITIAL": base, "STEPS": tune_steps}
    subprocess.run(command("train", [*MODEL, *instructions], macros), check=True)
    return base, tuned


def compared(base: Path, tuned: Path, task: str, examples: int) -> dict[str, float]:
    """Exact match before and after, in percent, and the interval of the difference."""
    against = [f"--run_dir={tuned}", f"--against={base}", f"--tasks={task}", f"--examples={examples}", "--json"]
    flags = [*against, "--module=t5x_like.tasks.mixtures", "--max_new_tokens=24"]
    done = subprocess.run(command("eval", (), {}, *flags), check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="where the runs are kept (default: a temporary folder)")
    parser.add_argument("--pretrain_steps", type=int, default=300)
    parser.add_argument("--tune_steps", type=int, default=2000)
    parser.add_argument("--examples", type=int, default=400, help="questions of each suite (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base, tuned = train(Path(args.folder or temporary), args.pretrain_steps, args.tune_steps)
        found = {name: compared(base, tuned, task, args.examples) for name, task in SUITES.items()}
    print(json.dumps(found, indent=1))
    report.print_json(**{name.replace(" ", "_"): x for name, x in found.items()})


if __name__ == "__main__":
    main()
