"""What the benchmarks of steps share: flags, the sides of a comparison, and its table with ratios and the machine's roof.

A row has the step's median seconds (wall and CPU), its speed by the model FLOPs of our accounting, and the share of the roof:
the fastest float32 products of two matrices of 2048 x 2048 that run in turns with the steps, XLA's or PyTorch's. All sides run
with the allocator settings of the `t5x_like` command, which make PyTorch's steps faster too.
"""

import argparse
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import report
import turns
from t5x_like.__main__ import TUNABLES
from turns import Side, Turns

PEERS = Path(__file__).parent / "peers"
SETTINGS = {"GLIBC_TUNABLES": os.environ.get("GLIBC_TUNABLES", TUNABLES)}
NO_PEER = """
PyTorch's sides need an environment of their own, named by --peer:
  python3 -m venv PEER && PEER/bin/pip install torch transformers && python {script} --peer=PEER/bin/python"""


def parser(doc: str) -> argparse.ArgumentParser:
    """Returns the flags that all comparisons have."""
    flags = argparse.ArgumentParser(description=doc)
    flags.add_argument("--rounds", type=int, default=5, help="steps of each side after its warmup")
    flags.add_argument("--peer", metavar="PYTHON", help="the python of an environment with torch and transformers")
    flags.add_argument("--side", help="serve this side, as a process that a comparison starts")
    return flags


def our_side(name: str) -> Side:
    """A side that this program serves with `--side`."""
    return Side([sys.executable, *sys.argv, f"--side={name}"], SETTINGS)


def peer_side(python: str, script: str, flags: Mapping[str, int], *switches: str) -> Side:
    """A side that a program of peers/ serves."""
    words = [f"--{name}={value}" for name, value in flags.items()] + [f"--{switch}" for switch in switches]
    return Side([python, str(PEERS / script), *words], SETTINGS)


def compare(
    title: str, sides: Mapping[str, Side], pairs: Sequence[tuple[str, str]], rounds: int, peer: str | None
) -> dict[str, Turns]:
    """Runs all sides in turns, with products of matrices, and prints the table and the ratio of each pair of sides.

    The first side reports the FLOPs of a step, and all sides do the same work.
    """
    products = {"products, XLA": Side([sys.executable, str(PEERS / "products_xla.py")], SETTINGS)}
    if peer:
        products["products, torch"] = Side([peer, str(PEERS / "products_torch.py")], SETTINGS)
    results = turns.take_turns({**sides, **products}, rounds)
    flops = dict.fromkeys(sides, results[next(iter(sides))].facts["flops"])
    flops |= {name: results[name].facts["flops"] for name in products}
    roof = max(flops[name] / results[name].median("wall") for name in products)
    rows = {name: make_row(side, flops[name], roof) for name, side in results.items()}
    found = {name: version for side in results.values() for name, version in side.facts["versions"].items()}
    machine = ", ".join([report.describe_cpu(), *(f"{name} {version}" for name, version in found.items())])
    report.print_table(f"{title}, {flops[next(iter(sides))] / 1e9:.0f} GFLOP per step", rows, machine)
    ratios = {f"{ours} / {theirs}": ratio(results[ours], results[theirs]) for ours, theirs in pairs}
    for name, x in ratios.items():
        print(f"{name}: wall {x['wall']:.2f} ({x['min']:.2f}-{x['max']:.2f} in pairs), CPU {x['cpu']:.2f}")
    if not peer:
        print(NO_PEER.format(script=sys.argv[0]))
    report.print_json(machine, ratios=ratios, roof=roof, sides=rows)
    return results


def check_first_losses(results: Mapping[str, Turns], vocab: int) -> None:
    """Checks that every side starts near the loss of uniform guesses, ln(vocab).

    Raises:
      ValueError: a side differs by more than 10%.
    """
    for name, side in results.items():
        first = side.facts["losses"][0]
        if first is not None and not 0.9 < first / math.log(vocab) < 1.1:
            raise ValueError(f"the first loss of {name!r} is {first:.2f}, far from ln({vocab}) = {math.log(vocab):.2f}")


def make_row(side: Turns, flops: float, roof: float) -> dict[str, float | str]:
    """One row of the table."""
    wall, losses = side.median("wall"), [*side.facts["losses"], *side.all("loss")]
    return {
        "wall s": wall,
        "min": min(side.all("wall")),
        "max": max(side.all("wall")),
        "CPU s": side.median("cpu"),
        "GFLOP/s": flops / wall / 1e9,
        "of the roof": f"{flops / wall / roof:.0%}",
        "first loss": "" if losses[0] is None else losses[0],
        "last loss": "" if losses[-1] is None else losses[-1],
        "peak GB": max(side.all("peak_bytes")) / 1e9,
    }


def ratio(ours: Turns, theirs: Turns) -> dict[str, float]:
    """Our seconds over theirs, round by round: median, least and greatest ratio of wall seconds, median of CPU seconds."""
    wall, cpu = (
        [a / b for a, b in zip(ours.all(figure), theirs.all(figure), strict=True)] for figure in ("wall", "cpu")
    )
    return {"wall": statistics.median(wall), "min": min(wall), "max": max(wall), "cpu": statistics.median(cpu)}
