"""A sweep: a base configuration, a design and a recipe, worked out to cells, and run until all are finished."""

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from t5x_like.progress import Bar
from t5x_like.scaling.planning import recipes
from t5x_like.scaling.sweeps import collect, designs, executors, trials
from t5x_like.scaling.sweeps.executors import Job
from t5x_like.scaling.sweeps.trials import Cell, Progress

TO_RUN = (trials.WAITING, trials.STOPPED)


@dataclasses.dataclass(frozen=True)
class Sweep:
    """What a sweep file configures.

    `base` are gin files and `settings` {macro or parameter: value} over them, what all runs have in common; `design` says
    which runs there are; `recipe` what a run of its size takes (None: what the base says); `executor` where they run.
    """

    directory: str
    base: Sequence[str]
    design: Any
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    recipe: recipes.Recipe | None = None
    executor: Any = dataclasses.field(default_factory=executors.LocalPool)


class Resolver(Protocol):
    """Reads configurations; gin's work, done by t5x_like.cli."""

    def counts(self, macros: Mapping[str, Any]) -> recipes.Counts:
        """Sizes of the model that the base configuration has with these macros."""

    def cell(self, macros: Mapping[str, Any]) -> Cell:
        """The run that it is with these macros."""


def resolved(sweep: Sweep, resolver: Resolver) -> list[Cell]:
    """The cells, each once, in the design's order."""
    found = (resolver.cell(macros_of(point, sweep.recipe, resolver)) for point in sweep.design.points())
    return list({cell.run_id: cell for cell in found}.values())


def macros_of(point: designs.Point, recipe: recipes.Recipe | None, resolver: Resolver) -> dict[str, Any]:
    """A point's macros, with those that follow from its compute; what the point sets itself wins.

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
        flops = recipe.count(counts) * point.tokens_per_param * counts.n_params
    return recipe.macros(counts, flops) | dict(point.macros)


def run(every: Sequence[Cell], executor: Any, retry: bool = False, replicas: int = 1) -> bool:
    """Trains what is not finished, longest first; True where all cells are finished at the end.

    Cells that failed are left alone without `retry`. Up to `replicas` cells that differ in learning rate and seed alone are
    trained together in one process (pack.py).
    """
    wanted = (*TO_RUN, trials.FAILED) if retry else TO_RUN
    todo = [cell for cell in every if trials.progress(cell).state in wanted]
    for cell in todo:
        cell.prepare()
    jobs = [job(group) for group in grouped(longest_first(todo), replicas)]
    with Bar("sweep", len(every)) as bar:
        watch = Watch(every, bar)
        watch.look()
        executor.run(jobs, watch)
        watch.look()
        while watch.running():
            time.sleep(executors.POLL_SECONDS)
            watch()
    return all(state == trials.FINISHED for state in watch.states.values())


@dataclasses.dataclass
class Watch:
    """Says which cells have finished or failed since it last looked."""

    every: Sequence[Cell]
    bar: Bar
    states: dict[str, str] = dataclasses.field(default_factory=dict)
    looked: float = 0.0

    def __call__(self) -> None:
        """Looks, unless it did within the last second."""
        if time.monotonic() - self.looked >= 1.0:
            self.look()

    def look(self) -> None:
        """Reads the run directories."""
        first = not self.states
        for cell in self.every:
            if self.states.get(cell.run_id) != trials.FINISHED:
                found = trials.progress(cell)
                self.say(cell, found, first)
                self.states[cell.run_id] = found.state
        self.bar.advance(list(self.states.values()).count(trials.FINISHED))
        self.looked = time.monotonic()

    def say(self, cell: Cell, found: Progress, first: bool) -> None:
        if first or found.state == self.states.get(cell.run_id):
            return
        if found.state == trials.FINISHED:
            self.bar.message(f"{cell.run_id} finished: {titled(cell)}  loss {found.eval_loss:.4f}")
        if found.state == trials.FAILED:
            self.bar.message(f"{cell.run_id} failed: {found.error}  ({cell.run_dir / 'log.txt'})")

    def running(self) -> bool:
        return trials.RUNNING in self.states.values()


def longest_first(every: Sequence[Cell]) -> list[Cell]:
    """By exact FLOPs: what takes longest starts first, so that no process is left alone with it at the end."""
    return sorted(every, key=lambda cell: -cell.columns["flops_exact"])


def grouped(every: Sequence[Cell], replicas: int) -> list[list[Cell]]:
    """Cells whose configurations differ in nothing but REPLICATED, at most `replicas` in a group."""
    groups: dict[str, list[Cell]] = {}
    for cell in every:
        groups.setdefault(shared(cell.config), []).append(cell)
    return [group[i : i + replicas] for group in groups.values() for i in range(0, len(group), replicas)]


REPLICATED = ("LEARNING_RATE", "SEED", "RUN_DIR")


def shared(config: str) -> str:
    """A configuration without the macros in which replicas differ."""
    return "\n".join(line for line in config.splitlines() if line.partition(" = ")[0] not in REPLICATED)


def job(group: Sequence[Cell]) -> Job:
    """The command that trains a cell, or several together."""
    flags = [f"--cell={cell.run_dir}" for cell in group]
    command = [sys.executable, "-m", "t5x_like", "sweep", *flags]
    return Job(group[0].run_id, command, group[0].run_dir / "log.txt")


def titled(cell: Cell) -> str:
    """What sets a cell apart, in a few words."""
    row = cell.columns
    return f"N={row['n_params']:,.0f} D={row['tokens']:,.0f} lr={row['lr']:.3g} seed={row['seed']:.0f}"


def write_table(every: Sequence[Cell], path: Path) -> Callable:
    """Writes the rows of all cells that were taken up; returns the table."""
    found = collect.collected(every)
    found.write(path)
    return found
