"""Sizes a ladder for `t5x_like sweep`: times two sizes, chooses budgets, and estimates the forecast error before training."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from t5x_like import writers
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.cli.sweeping.trials import BaseConfig
from t5x_like.run_dir import RunDir
from t5x_like.scaling.planning.recipes import Recipe
from t5x_like.scaling.planning.shapes import Shape
from t5x_like.scaling.sweeps import collect, executors, ladder, sweep, trials
from t5x_like.scaling.sweeps.ladder import TimeBudgetLadder, Timing
from t5x_like.scaling.sweeps.sweep import Sweep
from t5x_like.scaling.sweeps.trials import Trial


def size_ladder(config: Sweep, base: BaseConfig, read_only: str | None = None) -> Sweep:
    """Returns the sweep with its budgets, which are chosen once and stored in SWEEP_DIR/ladder.json.

    `read_only` is a flag of the command that forbids training, if one is given.

    Raises:
      ConfigError: the budgets are not chosen yet and `read_only` is given, or they were chosen for other minutes.
    """
    path = Path(config.directory) / "ladder.json"
    if not path.exists():
        if read_only:
            raise ConfigError(
                f"{read_only} trains nothing, but the ladder is not sized yet ({path} does not exist); run it without "
                f"{read_only} first, or with --dry_run, which trains only the runs that size the ladder"
            )
        budgets = choose_budgets(config, base)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(budgets, indent=1) + "\n")
        print(f"budgets written to {path}; delete it to size the ladder again\n")
    budgets = json.loads(path.read_text())
    check_minutes(config.design.minutes, budgets, path)
    return dataclasses.replace(config, design=config.design.design(budgets["largest_budget"]))


def check_minutes(minutes: float, budgets: dict[str, Any], path: Path) -> None:
    """Raises ConfigError if the budgets were chosen for other minutes; older files do not store the minutes."""
    if (old := budgets.get("minutes", minutes)) != minutes:
        raise ConfigError(
            f"--minutes={minutes:.12g}, but the budgets in {path} were chosen for {old:.12g} minutes; give "
            f"--minutes={old:.12g} to continue with them, or delete the file to size the ladder again"
        )


def choose_budgets(config: Sweep, base: BaseConfig) -> dict[str, Any]:
    """Times the probes, chooses budgets, estimates the forecast error, and prints all three.

    Raises:
      ConfigError: the sweep has no recipe.
    """
    design, recipe = config.design, config.recipe
    if recipe is None:
        raise ConfigError("the ladder gives budgets, but Sweep.recipe is None; set it to @recipes.Recipe()")
    processes = len(executors.worker_environments(getattr(config.executor, "processes", None), 10**6))
    timing = measure_timing(config, base, processes)

    def seconds(largest: float) -> tuple[float, float]:
        return design.estimate_seconds(largest, recipe, base.counts, timing, processes)

    largest = design.largest_budget(seconds)
    (ladder_seconds, target_seconds), (shape, flops) = seconds(largest), design.target(largest)
    noise = measured_noise(base)
    error = expected_error(design, recipe, base, largest, noise or design.noise)
    source = "measured" if noise else "assumed"
    budgets = ", ".join(f"{c:.3g} x {n}" for c, n in design.budgets(largest).items())
    print(
        f"{processes} processes; {1e6 * (timing.seconds(1e6, 1) - timing.seconds(1e6, 0)):.3g} us per token of 1 MFLOP, "
        f"{timing.start:.1f} s to start a run"
    )
    print(f"budgets {budgets}: {ladder_seconds / 60:.1f} minutes")
    print(f"then a run of {flops:.3g} FLOPs, {shape}: {target_seconds / 60:.1f} minutes")
    print(f"expected forecast error, if the law holds: {error:.2%} (seed noise {noise or design.noise:.2%}, {source})")
    return {
        "minutes": design.minutes,
        "largest_budget": largest,
        "target": shape | {"FLOPS": flops},
        "timing": dataclasses.asdict(timing),
        "error": error,
    }


def measure_timing(config: Sweep, base: BaseConfig, processes: int) -> Timing:
    """Trains the probes and fits a Timing to their speed."""
    probe = BaseConfig(base.files, base.settings, Path(config.directory) / "timing", base.search_paths)
    probes = [probe.trial(point.macros) for point in config.design.probes(processes)]
    if not sweep.run(probes, config.executor, retry=True):
        raise RuntimeError(f"a probe run failed; see its log.txt in {probe.directory}")
    return ladder.fit_timing([trial_speed(trial) for trial in probes])


def trial_speed(trial: Trial) -> tuple[float, float, float]:
    """(training FLOPs per token, seconds per token, seconds outside training) of a finished run."""
    row = trial.columns
    records = [r for r in writers.read_metrics(RunDir(trial.run_dir).metrics) if "speed/step_seconds" in r]
    per_step = records[-1]["speed/step_seconds"]  # the first records include compilation
    rest = collect.total_seconds(trials.read_attempts(trial.run_dir)) - per_step * trial.steps
    return row["flops_exact"] / row["tokens"], per_step / row["batch_tokens"], max(rest, 0.0)


def measured_noise(base: BaseConfig) -> float | None:
    """The seed noise of runs that this sweep has finished already; None if it has no repeats."""
    finished = [trials.read(path.parent) for path in sorted(base.directory.glob("*/trial.json"))]
    rows = collect.collect_rows(finished)
    return ladder.seed_noise(rows) if len(rows) and "loss" in rows else None


def expected_error(design: TimeBudgetLadder, recipe: Recipe, base: BaseConfig, largest: float, noise: float) -> float:
    """The expected error of the target's forecast from the runs of the ladder, relative to the loss."""

    def size_and_tokens(shape: Shape, flops: float) -> tuple[float, float]:
        counts = base.counts(shape)
        return counts.n_params, ladder.budget_tokens(flops, counts, recipe)

    runs = [
        size_and_tokens(shape, flops)
        for flops, seeds in design.budgets(largest).items()
        for shape in design.sizes(flops)
        for _ in range(seeds)
    ]
    target = size_and_tokens(*design.target(largest))
    return ladder.simulate_forecast(runs, target, design.assumed_law, noise)
