"""muP checks of `t5x_like sweep`: the coordinate check before a sweep, the transfer of learning rates after it."""

from collections.abc import Sequence

import numpy as np

from t5x_like import batches, partitioning
from t5x_like.cli.gin.runtime import Config
from t5x_like.cli.sweeping.tables import format_table
from t5x_like.cli.sweeping.trials import BaseConfig
from t5x_like.data.stream import Stream
from t5x_like.scaling.mup import coordinate_check, lr_transfer
from t5x_like.scaling.sweeps import trials
from t5x_like.scaling.sweeps.sweep import Sweep
from t5x_like.scaling.sweeps.trials import Trial
from t5x_like.training import state

STEPS, ROWS, MAX_SLOPE = 4, 4, 0.25  # wrong scaling gives a slope of 1/2 or 1


def check_coordinates(config: Sweep, base: BaseConfig) -> int:
    """Prints how far every module's output moves at each width of the sweep. The exit code is 1 if a movement grows with width.

    Raises:
      ValueError: the sweep has only one width.
    """
    by_width: dict[int, dict[str, float]] = {}
    for point in config.design.points():
        if (width := point.macros["WIDTH"]) not in by_width:
            by_width[width] = measure_movements(base.config({**point.macros, "WARMUP_STEPS": 0}))
    if len(by_width) < 2:
        raise ValueError(
            f"the coordinate check compares widths, and the sweep has {list(by_width)}; give it two or more"
        )
    movements = coordinate_check.compare_widths(by_width)
    rows = [
        {"module": movement.module}
        | {f"width {width}": f"{rms:.3g}" for width, rms in movement.rms.items()}
        | {"slope": f"{movement.slope:+.2f}"}
        for movement in movements
    ]
    print(format_table(rows))
    growing = [movement.module for movement in movements if movement.slope > MAX_SLOPE]
    print(f"\nafter {STEPS} steps; slope of log rms over log width above {MAX_SLOPE}: {', '.join(growing) or 'none'}")
    return 1 if growing else 0


def measure_movements(config: Config) -> dict[str, float]:
    """Movements of the configured model's outputs, by module, in the first steps of its run."""
    names = ("model", "objective", "optimizer", "train_rows")
    model, objective, optimizer, rows = (config.evaluate(f"trainer.train.{name}") for name in names)
    mesh, stream = partitioning.make_mesh(), Stream(rows, ROWS, 0)
    layout = state.layout(model, optimizer, batches.abstract(rows, ROWS), mesh)
    return coordinate_check.measure_movements(model, objective, optimizer, layout, [stream[i] for i in range(STEPS)])


def print_transfer(all_trials: Sequence[Trial]) -> int:
    """Prints the best learning rate of every width and its slope over width. The exit code is 1 if all lie at an edge.

    Raises:
      ValueError: no width has finished runs at three learning rates.
    """
    finished = [trial for trial in all_trials if trials.read_progress(trial).state == trials.FINISHED]
    runs = [(t.columns["width"], t.columns["lr"], trials.read_progress(t).eval_loss) for t in finished]
    best = lr_transfer.find_best_rates(runs)
    if not best:
        raise ValueError(f"{len(runs)} finished runs, but no width has three learning rates; run the sweep first")
    print(format_table([rate.row() for rate in best]))
    inside = [rate for rate in best if not rate.at_edge]
    if len(inside) > 1:
        slope = np.polyfit(np.log([rate.width for rate in inside]), np.log([rate.rate for rate in inside]), 1)[0]
        print(f"\nthe best learning rate scales as width^{slope:+.2f} (muP: 0; standard parametrization: about -1)")
    return 0 if inside else 1
