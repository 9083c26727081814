"""What `t5x_like sweep` says of muP: the coordinate check before a sweep, the transfer of learning rates after one."""

from collections.abc import Sequence

import numpy as np

from t5x_like import batches, partitioning
from t5x_like.cli.sweeping.tables import aligned
from t5x_like.cli.sweeping.trials import Base
from t5x_like.data.stream import Stream
from t5x_like.scaling.mup import coordinate_check, lr_transfer
from t5x_like.scaling.sweeps import trials
from t5x_like.scaling.sweeps.sweep import Sweep
from t5x_like.scaling.sweeps.trials import Cell
from t5x_like.training import state

STEPS, ROWS, SLOPE = 4, 4, 0.25  # a slope of half a power or a whole one is what wrong scaling gives


def check_coordinates(what: Sweep, base: Base) -> int:
    """Prints how far every module's output moves at each width of the sweep; the exit code is 1 where one grows with it."""
    by_width = {}
    for point in what.design.points():
        if (width := point.macros["WIDTH"]) not in by_width:
            by_width[width] = moved(base.config({**point.macros, "WARMUP_STEPS": 0}))
    if len(by_width) < 2:
        raise ValueError(
            f"the coordinate check compares widths, and the sweep has {list(by_width)}; give it two or more"
        )
    found = coordinate_check.compared(by_width)
    rows = [{"module": one.module} | {f"width {w}": f"{x:.3g}" for w, x in one.rms.items()} for one in found]
    for row, one in zip(rows, found, strict=True):
        row["slope"] = f"{one.slope:+.2f}"
    print(aligned(rows))
    growing = [one.module for one in found if one.slope > SLOPE]
    print(f"\nafter {STEPS} steps; slope of log rms over log width above {SLOPE}: {', '.join(growing) or 'nowhere'}")
    return 1 if growing else 0


def moved(config) -> dict[str, float]:
    """Movements of the configured model in the first steps of its run."""
    names = ("model", "objective", "optimizer", "train_rows")
    model, objective, optimizer, rows = (config.evaluate(f"trainer.train.{name}") for name in names)
    mesh, stream = partitioning.make_mesh(), Stream(rows, ROWS, 0)
    layout = state.layout(model, optimizer, batches.abstract(rows, ROWS), mesh)
    return coordinate_check.movements(model, objective, optimizer, layout, [stream[i] for i in range(STEPS)])


def show_transfer(every: Sequence[Cell]) -> int:
    """Prints the best learning rate of every width, and how it changes; 1 where no width has a minimum inside its rates."""
    done = [cell for cell in every if trials.progress(cell).state == trials.FINISHED]
    runs = [(cell.columns["width"], cell.columns["lr"], trials.progress(cell).eval_loss) for cell in done]
    best = lr_transfer.best_rates(runs)
    if not best:
        raise ValueError(f"{len(runs)} finished runs, none with three learning rates at a width; run the sweep first")
    print(aligned([one.row() for one in best]))
    inside = [one for one in best if not one.at_edge]
    if len(inside) > 1:
        slope = np.polyfit(np.log([one.width for one in inside]), np.log([one.rate for one in inside]), 1)[0]
        print(f"\nbest learning rate goes as width^{slope:+.2f} (muP: 0; the standard parametrization: about -1)")
    return 0 if inside else 1
