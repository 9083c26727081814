"""Speed of this working tree against the last release in under 4 minutes, as ratios of times: `make bench-quick`.

The commit in quick.json is taken from git's history, and both versions run the items of quick_items.py in turns, in processes
that stay alive, so that whatever else the machine does affects both. A ratio is the median of (time here / time there) over the
rounds, of two turns each, in both orders: 1.10 is 10% slower. Beside it stand its interval of at least 95% in this run, and the
noise band: the largest ratio of two processes of one commit in the runs stored in quick.json, times 1.5 and at least 5%. A ratio
is marked "slower" or "faster" if it is outside the band and the interval excludes 1. Confirm a mark with
`quick.py --only=ITEM --rounds=20`.

Without the commit (a copy without git's history) or with --stored the figures are compared with those in quick.json, as multiples
of a calibration in the same turns (products of matrices, passes over memory, Python). These carry over to another machine
of the same make; on another make read only changes well beyond 30%.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import noise
from quick_items import ITEMS

import report
import turns
from t5x_like.__main__ import TUNABLES
from t5x_like.progress import track

ROOT = Path(__file__).resolve().parents[1]
STORE = Path(__file__).with_name("quick.json")
PAIR_FLOOR, STORED_FLOOR = 0.05, 0.1  # the narrowest bands, relative

Seconds = dict[str, list[tuple[float, ...]]]  # item -> for every round the wall seconds of every side, in two turns


def side(tree: Path, item: str, folder: str) -> turns.Side:
    """The process that serves an item of a tree, by the tree's own script if it has one; it writes into `folder`."""
    own = tree / "benchmarks" / "quick_items.py"
    script = own if own.exists() else Path(__file__).with_name("quick_items.py")
    path = os.pathsep.join([str(tree), str(script.parent)])
    # The allocator's settings are those of the command.
    environment = {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "TMPDIR": folder, "GLIBC_TUNABLES": TUNABLES}
    return turns.Side([sys.executable, str(script), item], environment)


def git(*arguments: str) -> bytes:
    """The output of a git command in this repository.

    Raises:
      SystemExit: the command fails.
    """
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True)
    if done.returncode:
        raise SystemExit(f"git {' '.join(arguments)}: {done.stderr.decode().strip()}")
    return done.stdout


def has_commit(commit: str) -> bool:
    """Whether git's history here has the commit."""
    check = ["git", "-C", str(ROOT), "cat-file", "-e", f"{commit}^{{commit}}"]
    return subprocess.run(check, capture_output=True).returncode == 0


@contextlib.contextmanager
def checkout(ref: str) -> Iterator[Path]:
    """A folder with the files of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(git("archive", ref))) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder).resolve()


def run_turns(trees: Sequence[Path], items: Sequence[str], rounds: int, calibrate: bool) -> Seconds:
    """Runs every item of all trees in turns, and with `calibrate` its calibration of the first tree in the same turns."""
    seconds: Seconds = {}
    for item in track(items, "items", len(items)):
        with tempfile.TemporaryDirectory() as folder:
            sides = {f"{number}": side(tree, item, folder) for number, tree in enumerate(trees)}
            if calibrate:
                sides["calibration"] = side(trees[0], ITEMS[item][1], folder)
            try:
                found = turns.take_turns(sides, 2 * rounds)
            except SystemExit as error:  # an older version may lack an item
                print(f"{item} is left out: {error}", file=sys.stderr)
                continue
        for tree, each in zip(trees, found.values(), strict=False):
            if each.facts["tree"] != str(tree):
                raise SystemExit(f"{item} imported t5x_like from {each.facts['tree']} instead of {tree}")
        seconds[item] = list(zip(*(noise.sum_pairs(each.all("wall")) for each in found.values()), strict=True))
    return seconds


def compare_versions(ref: str, items: Sequence[str], rounds: int, stored: Mapping[str, Any]) -> dict[str, dict]:
    """Both versions in turns; returns a row per item."""
    with checkout(ref) as tree:
        seconds = run_turns([ROOT, tree], items, rounds, calibrate=False)
    rows = {}
    for item, times in seconds.items():
        width = noise.band([run[item]["pair"] for run in stored["runs"] if item in run], PAIR_FLOOR)
        here_s, there_s = (statistics.median(column) / 2 for column in zip(*times, strict=True))
        rows[item] = {"here s": here_s, "there s": there_s, **noise.judge([a / b for a, b in times], width)}
    return rows


def compare_stored(items: Sequence[str], rounds: int, stored: Mapping[str, Any]) -> dict[str, dict]:
    """This version's multiples of the calibrations against the stored ones; returns a row per item."""
    seconds = run_turns([ROOT], items, rounds, calibrate=True)
    rows = {}
    for item, times in seconds.items():
        before = [run[item]["relative"] for run in stored["runs"] if item in run]
        if not before:
            continue
        center = statistics.median(before)
        width = noise.band([x / center for x in before], STORED_FLOOR)
        ratios = [a / b / center for a, b in times]
        rows[item] = {"here s": statistics.median(a for a, _ in times) / 2, **noise.judge(ratios, width)}
    return rows


def store(items: Sequence[str], rounds: int) -> dict[str, dict]:
    """Adds a run of two processes of the commit that is checked out to quick.json; another commit's runs are removed."""
    if changed := git("status", "--porcelain", "--", ".", ":!benchmarks/quick.json").decode():
        raise SystemExit(f"--store measures a commit, but these files differ from it; commit first:\n{changed}")
    commit = git("rev-parse", "HEAD").decode().strip()
    with checkout(commit) as tree:
        seconds = run_turns([tree, tree], items, rounds, calibrate=True)
    run = {
        item: {
            "pair": round(statistics.median(a / b for a, b, _ in times), 4),
            "relative": round(statistics.median(a / c for a, _, c in times), 4),
        }
        for item, times in seconds.items()
    }
    stored = json.loads(STORE.read_text()) if STORE.exists() else {}
    runs = stored["runs"] if stored.get("commit") == commit else []
    text = json.dumps({"commit": commit, "machine": report.describe_machine(), "runs": [*runs, run]}, indent=1)
    STORE.write_text(text + "\n")
    return run


def main() -> None:
    """Prints a table of ratios and one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--against", metavar="REF", help="a commit, tag or branch to compare with (default: quick.json's)"
    )
    parser.add_argument(
        "--stored", action="store_true", help="compare with the figures in quick.json; runs no second version"
    )
    parser.add_argument("--rounds", type=int, default=6, help="of two turns each (default: 6); fewer mark nothing")
    parser.add_argument("--only", metavar="WORD", default="", help="only the items whose name contains WORD")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if an item is marked slower")
    parser.add_argument(
        "--store", action="store_true", help="at a release: add a run of this commit to quick.json; do so five times"
    )
    args = parser.parse_args()
    items = [item for item in ITEMS if args.only in item]
    if not items:
        parser.error(f"--only={args.only}: no item contains it; there are {', '.join(ITEMS)}")
    if args.store:
        report.print_table("two processes of one commit", store(items, args.rounds))
        return
    if args.against and not has_commit(args.against):
        parser.error(f"--against={args.against}: git has no such commit here; fetch it, or name another")
    if not STORE.exists():
        parser.error(f"{STORE} does not exist; make it with --store")
    stored = json.loads(STORE.read_text())
    ref = args.against or stored["commit"]
    if args.stored or (args.against is None and not has_commit(ref)):
        rows = compare_stored(items, args.rounds, stored)
        title = f"against {ref[:12]} as stored, measured on {stored['machine']}"
    else:
        rows = compare_versions(ref, items, args.rounds, stored)
        title = f"against {ref[:12]} in turns"
    if not rows:
        raise SystemExit(f"nothing to compare: {STORE} has no figures of these items, or all of them failed")
    report.print_table(f"seconds, and ratio to those {title}", rows)
    slower = [item for item, row in rows.items() if row[""] == "slower"]
    report.print_json(against=ref, ratios={item: row["ratio"] for item, row in rows.items()}, slower=slower)
    sys.exit(1 if args.strict and slower else 0)


if __name__ == "__main__":
    main()
