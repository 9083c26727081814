"""The engine: continuous batching beside static batches on a load of mixed lengths, and prompts that begin alike.

The 20M decoder of train_step.py with bytes as tokens, random weights, float32. Both sides of the first part continue the same
requests, ROWS at once, in turns: the engine gives a row to the next request when one ends; static batches, `loop.generate`, end
with their longest request. In the second part a prompt of 1024 tokens and a question is continued by one token, for the first
time and again with other questions.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np
import train_step
from flax import linen as nn
from hand_written import random_batch

import report
from t5x_like import prompt_batches
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.decoding.loop import generate
from t5x_like.decoding.sampling import Greedy
from t5x_like.serving.engine import Engine
from t5x_like.serving.options import Options
from t5x_like.serving.requests import Settings

ROWS, REQUESTS = 8, 96
SHORTEST, LONGEST = 8, 256  # of prompts and of completions, log-uniform
SHARED, QUESTION = 1024, 16
VOCABULARY = ByteVocabulary()
Request = tuple[list[int], int]  # prompt, number of new tokens


def build() -> tuple[nn.Module, dict]:
    """The model and its parameters."""
    model = train_step.build_model(train_step.SIZES["20M"])
    model = model.clone(embed=model.embed.clone(vocab_size=VOCABULARY.vocab_size))
    return model, nn.unbox(jax.jit(model.init)(jax.random.key(0), random_batch(1, 8))["params"])


def make_requests(seed: int) -> list[Request]:
    """The load."""
    random = np.random.default_rng(seed)
    lengths = np.exp(random.uniform(np.log(SHORTEST), np.log(LONGEST), (REQUESTS, 2))).astype(int)
    return [(random.integers(3, 259, prompt).tolist(), int(new)) for prompt, new in lengths]


def continue_by_engine(engine: Engine, requests: Sequence[Request]) -> list[list[int]]:
    """The tokens of all requests."""
    tickets = [engine.submit(ids, Settings(max_new_tokens=new, stop_ids=False)) for ids, new in requests]
    return [ticket.result().ids for ticket in tickets]


def make_static(model: nn.Module, params: dict) -> Callable[[Sequence[Request]], list[list[int]]]:
    """Continues requests in batches of ROWS, in their order; a batch generates as many tokens as its longest request wants."""

    @functools.partial(jax.jit, static_argnames="new")
    def program(params: dict, batch: dict, keys: jax.Array, new: int) -> jax.Array:
        return generate(model, params, batch, keys, Greedy(), new, stop_ids=()).tokens_BN

    def run(requests: Sequence[Request]) -> list[list[int]]:
        found = []
        for begin in range(0, len(requests), ROWS):
            part = requests[begin : begin + ROWS]
            batch = prompt_batches.decoder_batch([ids for ids, _ in part])
            # Few lengths, so that few programs are compiled.
            most = prompt_batches.round_up(max(new for _, new in part), 32)
            tokens = np.asarray(program(params, batch, np.zeros((len(part), 2), np.uint32), most))
            found += [row[:new].tolist() for row, (_, new) in zip(tokens, part, strict=True)]
        return found

    return run


def compare_batching(model: nn.Module, params: dict, rounds: int) -> dict[str, float]:
    """Tokens per second of both sides."""
    requests, static = make_requests(0), make_static(model, params)
    seconds: dict[str, list[float]] = {"engine": [], "static batches": []}
    with Engine(model, params, VOCABULARY, Options(max_length=2 * LONGEST, max_rows=ROWS)) as engine:
        sides = {"engine": lambda: continue_by_engine(engine, requests), "static batches": lambda: static(requests)}
        same = [side() for side in sides.values()]  # compiles
        equal = statistics.mean(a == b for a, b in zip(*same, strict=True))
        for number in range(rounds):
            for name in list(sides)[:: -1 if number % 2 else 1]:
                began = time.perf_counter()
                sides[name]()
                seconds[name].append(time.perf_counter() - began)
    total = sum(new for _, new in requests)
    rates = {name: total / statistics.median(values) for name, values in seconds.items()}
    print(
        f"{REQUESTS} requests, {ROWS} at once, {SHORTEST} to {LONGEST} tokens of prompts and completions, {total} new tokens:"
    )
    for name, rate in rates.items():
        print(f"  {name:<15} {rate:8.0f} tokens/s")
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    print(
        f"  ratio {statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f}); {equal:.0%} of the completions are equal"
    )
    return rates


def time_shared_prompts(model: nn.Module, params: dict, rounds: int) -> dict[str, float]:
    """Seconds to the first token of a long prompt, and of others that begin alike."""
    random, seconds = np.random.default_rng(1), {"first": [], "shared": []}
    draw = lambda count: random.integers(3, 259, count).tolist()  # noqa: E731
    with Engine(model, params, VOCABULARY, Options(max_length=2048, max_rows=1, kept_rows=1)) as engine:
        for number in range(rounds + 1):
            shared = draw(SHARED)
            for name in ("first", "shared"):
                began = time.perf_counter()
                completion = engine.complete([*shared, *draw(QUESTION)], Settings(max_new_tokens=1, stop_ids=False))
                if number:  # the first round compiles
                    seconds[name].append(time.perf_counter() - began)
                assert (completion.cached_tokens >= SHARED) == (name == "shared")
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    print(
        f"Seconds to the first token of {SHARED} + {QUESTION} tokens: {medians['first']:.3f}, when the first {SHARED} were read"
    )
    print(f"  before: {medians['shared']:.4f}, {medians['first'] / medians['shared']:.1f} times faster")
    return medians


def main() -> None:
    """Runs the benchmark and prints the results."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--rounds", type=int, default=5)
    rounds = flags.parse_args().rounds
    model, params = build()
    print(report.describe_cpu())
    rates, medians = compare_batching(model, params, rounds), time_shared_prompts(model, params, rounds)
    report.print_json(report.describe_cpu(), batching=rates, first_token=medians)


if __name__ == "__main__":
    main()
