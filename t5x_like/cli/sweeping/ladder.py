"""Sizes a ladder for `t5x_like sweep`: times two sizes, chooses budgets, and rehearses the forecast before anything is spent."""

import dataclasses
import json
from pathlib import Path

from t5x_like import writers
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.cli.sweeping.trials import Base
from t5x_like.run_dir import RunDir
from t5x_like.scaling.sweeps import collect, executors, ladder, sweep, trials
from t5x_like.scaling.sweeps.ladder import SelfSized, Timing
from t5x_like.scaling.sweeps.sweep import Sweep
from t5x_like.scaling.sweeps.trials import Cell


def sized(what: Sweep, base: Base, looking: str | None = None) -> Sweep:
    """The sweep with its budgets chosen: once, then kept in SWEEP_DIR/ladder.json, so that the same command goes on.

    Raises:
      ConfigError: they are still to be chosen, but the flag `looking` trains nothing; or they were chosen for other minutes.
    """
    kept = Path(what.directory) / "ladder.json"
    if not kept.exists():
        if looking:
            raise ConfigError(
                f"{looking} trains nothing, and the ladder is not sized yet ({kept} is not there); run it without {looking} "
                "first, or with --dry_run, which trains no more than what sizes it"
            )
        chosen = choose(what, base)
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(chosen, indent=1) + "\n")
        print(f"budgets kept in {kept}; delete it to size the ladder anew\n")
    chosen = json.loads(kept.read_text())
    check_minutes(what.design.minutes, chosen, kept)
    return dataclasses.replace(what, design=what.design.design(chosen["largest_budget"]))


def check_minutes(minutes: float, chosen: dict, kept: Path) -> None:
    """Refuses minutes that are not those that the budgets were chosen for; older files do not say them."""
    if (old := chosen.get("minutes", minutes)) != minutes:
        raise ConfigError(
            f"--minutes={minutes:.12g}, but the budgets in {kept} were chosen for {old:.12g} minutes; give "
            f"--minutes={old:.12g} to go on with them, or delete the file to size the ladder anew"
        )


def choose(what: Sweep, base: Base) -> dict:
    """Times, chooses, rehearses, and says so."""
    design, recipe = what.design, what.recipe
    processes = len(executors.slots(getattr(what.executor, "processes", None), 10**6))
    timed = measured(what, base, processes)

    def seconds(largest: float) -> tuple[float, float]:
        return design.seconds(largest, recipe, base.counts, timed, processes)

    largest = design.largest(seconds)
    (fitted, alone), (shape, flops) = seconds(largest), design.target(largest)
    noise = known_noise(what, base)
    error = rehearsal(design, recipe, base, largest, noise or design.noise)
    source = "measured" if noise else "assumed"
    print(
        f"{processes} processes; a token of 1 MFLOP takes {1e6 * timed.seconds(1e6, 1) - 1e6 * timed.seconds(1e6, 0):.3g} us, "
        f"a run starts in {timed.start:.1f} s"
    )
    print(
        f"budgets {', '.join(f'{c:.3g} x {n}' for c, n in design.budgets(largest).items())}: {fitted / 60:.1f} minutes"
    )
    print(f"then a run of {flops:.3g} FLOPs, {shape}: {alone / 60:.1f} minutes")
    print(
        f"expected error of its forecast, if the law holds: {error:.2%} (noise of seeds {noise or design.noise:.2%}, {source})"
    )
    return {
        "minutes": design.minutes,
        "largest_budget": largest,
        "target": shape | {"FLOPS": flops},
        "timing": dataclasses.asdict(timed),
        "error": error,
    }


def measured(what: Sweep, base: Base, processes: int) -> Timing:
    """Trains the probes and reads their speed."""
    probe = Base(base.files, base.settings, Path(what.directory) / "timing", base.search_paths)
    every = [probe.cell(point.macros) for point in what.design.probes(processes)]
    if not sweep.run(every, what.executor, retry=True):
        raise RuntimeError(f"a timed run failed; its log.txt in {probe.directory} says why")
    return ladder.timing([speed(cell) for cell in every])


def speed(cell: Cell) -> tuple[float, float, float]:
    """(training FLOPs per token, seconds a token, seconds that were no training) of a finished run."""
    row = cell.columns
    records = [r for r in writers.read_records(RunDir(cell.run_dir).metrics) if "speed/step_seconds" in r]
    per_step = records[-1]["speed/step_seconds"]  # the first ones have the compile in them
    rest = collect.seconds(trials.attempts(cell.run_dir)) - per_step * cell.steps
    return row["flops_exact"] / row["tokens"], per_step / row["batch_tokens"], max(rest, 0.0)


def known_noise(what: Sweep, base: Base) -> float | None:
    """Between the seeds of runs that this sweep has finished already."""
    done = [trials.read(path.parent) for path in sorted(base.directory.glob("*/cell.json"))]
    found = collect.collected(done)
    return ladder.seed_noise(found) if len(found) and "loss" in found else None


def rehearsal(design: SelfSized, recipe, base: Base, largest: float, noise: float) -> float:
    """The expected error of the forecast of the target from the runs of the ladder."""

    def place(shape, flops) -> tuple[float, float]:
        counts = base.counts(shape)
        return counts.n_params, ladder.tokens_of(flops, counts, recipe)

    runs = [place(point.macros, point.flops) for point in design.design(largest).points()]
    return ladder.rehearsed(runs, place(*design.target(largest)), design.assumed, noise)
