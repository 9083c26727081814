"""A sweep: a base configuration, a design and a recipe, resolved to trials that run until all are finished."""

import dataclasses
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from t5x_like.progress import ProgressBar
from t5x_like.scaling.laws import table
from t5x_like.scaling.planning import recipes
from t5x_like.scaling.sweeps import collect, designs, executors, trials
from t5x_like.scaling.sweeps.executors import Executor, Job
from t5x_like.scaling.sweeps.trials import Progress, Trial

PENDING = (trials.WAITING, trials.STOPPED)
REPLICATED = ("LEARNING_RATE", "SEED", "RUN_DIR")


@dataclasses.dataclass(frozen=True)
class Sweep:
    """The configuration of a sweep.

    Attributes:
      directory: where runs and the table are written.
      base: gin files that all runs have in common, and `settings` {macro or parameter: value} over them.
      design: which runs the sweep has (designs.py, or ladder.TimeBudgetLadder).
      recipe: computes steps, batch size and learning rate of a run from its compute; None takes them from the base.
      executor: where trials run (executors.py).
    """

    directory: str
    base: Sequence[str]
    design: Any
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    recipe: recipes.Recipe | None = None
    executor: Executor = dataclasses.field(default_factory=executors.LocalPool)


class Resolver(Protocol):
    """Reads gin configurations; implemented by t5x_like.cli."""

    def counts(self, macros: Mapping[str, Any]) -> recipes.Counts:
        """Sizes of the model of the base configuration with these macros."""
        ...

    def trial(self, macros: Mapping[str, Any]) -> Trial:
        """The run of the base configuration with these macros."""
        ...


def resolve_trials(sweep: Sweep, resolver: Resolver) -> list[Trial]:
    """Returns the distinct trials, in the design's order."""
    resolved = (resolver.trial(point_macros(point, sweep.recipe, resolver)) for point in sweep.design.points())
    return list({trial.run_id: trial for trial in resolved}.values())


def point_macros(point: designs.Point, recipe: recipes.Recipe | None, resolver: Resolver) -> dict[str, Any]:
    """Returns a point's macros and those that its compute implies; the point's own take precedence.

    Raises:
      ValueError: a point with compute in a sweep without a recipe.
    """
    if point.flops is None and point.tokens_per_param is None:
        return dict(point.macros)
    if recipe is None:
        raise ValueError("the design gives budgets, but Sweep.recipe is None; set it to @recipes.Recipe()")
    counts = resolver.counts(point.macros)
    flops = point.flops
    if flops is None:
        assert point.tokens_per_param is not None
        flops = recipe.count(counts) * point.tokens_per_param * counts.n_params
    return recipe.macros(counts, flops) | dict(point.macros)


def run(all_trials: Sequence[Trial], executor: Executor, retry: bool = False, replicas: int = 1) -> bool:
    """Trains the unfinished trials, longest first. Returns whether all trials are finished at the end.

    Failed trials run again only with `retry`. Up to `replicas` trials that differ only in learning rate and seed are trained
    together in one process (replicas.py).
    """
    states = (*PENDING, trials.FAILED) if retry else PENDING
    pending = [trial for trial in all_trials if trials.read_progress(trial).state in states]
    for trial in pending:
        trial.prepare()
    jobs = [make_job(group) for group in group_replicas(sort_longest_first(pending), replicas)]
    with ProgressBar("sweep", len(all_trials)) as bar:
        watch = Watch(all_trials, bar)
        watch.poll()
        executor.run(jobs, watch)
        watch.poll()
        while watch.any_running():
            time.sleep(executors.POLL_SECONDS)
            watch()
    return all(state == trials.FINISHED for state in watch.states.values())


@dataclasses.dataclass
class Watch:
    """Reports trials that have finished or failed since the last poll."""

    all_trials: Sequence[Trial]
    bar: ProgressBar
    states: dict[str, str] = dataclasses.field(default_factory=dict)
    polled: float = 0.0

    def __call__(self) -> None:
        """Polls at most once a second."""
        if time.monotonic() - self.polled >= 1.0:
            self.poll()

    def poll(self) -> None:
        """Reads the run directories."""
        first = not self.states
        for trial in self.all_trials:
            if self.states.get(trial.run_id) != trials.FINISHED:
                progress = trials.read_progress(trial)
                self.report(trial, progress, first)
                self.states[trial.run_id] = progress.state
        self.bar.advance(list(self.states.values()).count(trials.FINISHED))
        self.polled = time.monotonic()

    def report(self, trial: Trial, progress: Progress, first: bool) -> None:
        """Prints a message if the trial has finished or failed since the last poll; nothing on the first poll."""
        if first or progress.state == self.states.get(trial.run_id):
            return
        if progress.state == trials.FINISHED:
            self.bar.message(f"{trial.run_id} finished: {describe_trial(trial)}  loss {progress.eval_loss:.4f}")
        if progress.state == trials.FAILED:
            self.bar.message(f"{trial.run_id} failed: {progress.error}  ({trial.run_dir / 'log.txt'})")

    def any_running(self) -> bool:
        """Whether any trial was running at the last poll."""
        return trials.RUNNING in self.states.values()


def sort_longest_first(all_trials: Sequence[Trial]) -> list[Trial]:
    """Sorts by exact FLOPs: the longest trials start first, so that no process runs one alone at the end."""
    return sorted(all_trials, key=lambda trial: -trial.columns["flops_exact"])


def group_replicas(all_trials: Sequence[Trial], replicas: int) -> list[list[Trial]]:
    """Groups trials whose configurations differ only in REPLICATED, at most `replicas` in a group."""
    groups: dict[str, list[Trial]] = {}
    for trial in all_trials:
        groups.setdefault(shared_config(trial.config), []).append(trial)
    return [group[i : i + replicas] for group in groups.values() for i in range(0, len(group), replicas)]


def shared_config(config: str) -> str:
    """Returns a configuration without the macros in which replicas differ."""
    return "\n".join(line for line in config.splitlines() if line.partition(" = ")[0] not in REPLICATED)


def make_job(group: Sequence[Trial]) -> Job:
    """Returns the command that trains one trial, or several as replicas."""
    flags = [f"--trial={trial.run_dir}" for trial in group]
    command = [sys.executable, "-m", "t5x_like", "sweep", *flags]
    return Job(group[0].run_id, command, group[0].run_dir / "log.txt")


def describe_trial(trial: Trial) -> str:
    """Returns size, tokens, learning rate and seed of a trial as text."""
    row = trial.columns
    return f"N={row['n_params']:,.0f} D={row['tokens']:,.0f} lr={row['lr']:.3g} seed={row['seed']:.0f}"


def write_table(all_trials: Sequence[Trial], path: Path) -> table.Table:
    """Writes the rows of all trials that were ever started, and returns the table."""
    rows = collect.collect_rows(all_trials)
    rows.write(path)
    return rows
