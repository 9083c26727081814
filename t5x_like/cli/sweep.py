"""Trains a sweep of runs for scaling laws: cells worked out from one gin file, finished ones skipped, all in one table.

  t5x_like sweep --gin_file=sweeps/isoflop.gin --gin.SWEEP_DIR=/tmp/sweep --dry_run
  t5x_like sweep --gin_file=sweeps/isoflop.gin --gin.SWEEP_DIR=/tmp/sweep

--dry_run shows every cell with its FLOPs, steps, hours and cost, and trains nothing (of sweeps/ladder.gin: only the runs that
size it, once). The same command again goes on: what is finished is skipped, what died resumes from its checkpoint, what failed
waits for --retry. --status says how it is going. At the end, and with --collect, SWEEP_DIR/runs.csv has a row for every run,
for `t5x_like fit`.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path

from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.cli.sweeping.tables import aligned

ASSUMED_SHARE = 0.4  # of a matmul's FLOP/s, for a first estimate of hours


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="t5x_like sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="show the cells and what they cost; train nothing but what sizes a ladder",
    )
    parser.add_argument("--status", action="store_true", help="show how far every cell is; train nothing")
    parser.add_argument("--retry", action="store_true", help="train cells that failed again, from their checkpoints")
    parser.add_argument("--collect", metavar="TABLE", help="write the table (.csv or .parquet) here; train nothing")
    parser.add_argument(
        "--pack",
        type=int,
        default=1,
        metavar="N",
        help="train up to N learning rates and seeds of a shape as one program",
    )
    parser.add_argument(
        "--cost_per_hour", type=float, default=0.0, help="of one process of the executor, for --dry_run"
    )
    parser.add_argument(
        "--flops_per_second", type=float, help="that one process reaches (default: as finished cells, else a guess)"
    )
    parser.add_argument("--minutes", type=float, help="that sweeps/ladder.gin may take (sets its MINUTES)")
    parser.add_argument("--coordinate_check", action="store_true", help="check muP: how activations move, by width")
    parser.add_argument("--lr_transfer", action="store_true", help="show the best learning rate of every width")
    parser.add_argument("--cell", action="append", metavar="RUN_DIR", help="what executors call: train this cell")
    runtime.add_flags(parser)
    from t5x_like.cli.sweeping import trial

    trial.use_own_cores()
    from t5x_like.cli import launch

    launch.add_flags(parser)
    args = runtime.parse_args(parser, argv)
    check(args)
    if args.minutes is not None:
        args.gin_overrides.append(f"--gin.MINUTES={args.minutes!r}")
    if args.cell:
        launch.set_up(args)
        return trial.train(args.cell)
    return run(args)


def check(args: argparse.Namespace) -> None:
    """Refuses flags that cannot work, before anything is read."""
    if args.pack < 1:
        raise ValueError(f"--pack={args.pack} is not a positive whole number; set it to 1 or more")
    if args.flops_per_second is not None and not args.flops_per_second > 0:
        raise ValueError(f"--flops_per_second={args.flops_per_second} is not positive; give what a process reaches")
    if not args.cell and not args.gin_file:
        raise ConfigError("no --gin_file is given; start with --gin_file=sweeps/isoflop.gin --gin.SWEEP_DIR=FOLDER")


def run(args: argparse.Namespace) -> int:
    """The sweep itself: this process reads and waits, and leaves accelerators to the cells."""
    import jax

    from t5x_like.cli.sweeping.trials import Base
    from t5x_like.scaling.sweeps import ladder, sweep

    jax.config.update("jax_platforms", "cpu")
    what = runtime.from_flags(args).configured("sweep.Sweep")()
    search_paths = [path for path in args.gin_search_paths.split(",") if path]
    base = Base(what.base, what.settings, Path(what.directory) / "cells", search_paths)
    if args.coordinate_check:
        from t5x_like.cli.sweeping import mup

        return mup.check_coordinates(what, base)
    if isinstance(what.design, ladder.SelfSized):
        from t5x_like.cli.sweeping import ladder as sweep_ladder

        what = sweep_ladder.sized(what, base, looking(args))
    every = sweep.resolved(what, base)
    if args.dry_run:
        print(planned(every, speed(every, args.flops_per_second), args.cost_per_hour))
        return 0
    if args.status:
        print(status(every))
        return 0
    if args.lr_transfer:
        return mup.show_transfer(every)
    path = Path(args.collect or Path(what.directory) / "runs.csv")
    finished = True if args.collect else sweep.run(every, what.executor, args.retry, args.pack)
    print(f"{len(sweep.write_table(every, path))} rows: {path}")
    if not finished:
        print(status(every))
    return 0 if finished else 1


def looking(args: argparse.Namespace) -> str | None:
    """The flag, if one is given, that only looks at what has been trained."""
    if args.dry_run:
        return None
    return next((f"--{name}" for name in ("status", "lr_transfer", "collect") if getattr(args, name)), None)


def speed(every: Sequence, given: float | None) -> tuple[float, str]:
    """(FLOP/s of one process, where the figure is from)."""
    from t5x_like.accounting import flops
    from t5x_like.scaling.sweeps import collect, trials

    if given is not None:
        return given, "--flops_per_second"
    done = [cell for cell in every if trials.progress(cell).state == trials.FINISHED]
    seconds = sum(collect.seconds(trials.attempts(cell.run_dir)) for cell in done)
    if seconds:
        return sum(cell.columns["flops_exact"] for cell in done) / seconds, f"{len(done)} finished cells"
    peak, source = flops.peak_per_device()
    return ASSUMED_SHARE * peak, f"{ASSUMED_SHARE:.0%} of a {source}; --flops_per_second says better"


def planned(every: Sequence, rate: tuple[float, str], cost_per_hour: float) -> str:
    """The table of --dry_run."""
    from t5x_like.scaling.sweeps import trials

    per_second, source = rate
    rows, total, left = [], 0.0, 0.0
    for cell in every:
        found, row = trials.progress(cell), cell.columns
        hours = row["flops_exact"] / per_second / 3600
        total += hours
        left += hours if found.state != trials.FINISHED else 0.0
        counts = {
            name: row[name] for name in ("n_params", "tokens", "flops_6nd", "flops_with_embeddings", "flops_exact")
        }
        sizes = {name: f"{value:.3g}" for name, value in counts.items()}
        ratio = {
            "D/N": f"{row['tokens'] / row['n_params']:.1f}",
            "steps": row["steps"],
            "batch": f"{row['batch_tokens']:,}",
        }
        rest = {"lr": f"{row['lr']:.3g}", "seed": row["seed"], "hours": f"{hours:.3g}"}
        cost = {"cost": f"{hours * cost_per_hour:.2f}"} if cost_per_hour else {}
        rows.append({"cell": cell.run_id} | sizes | ratio | rest | cost | {"state": found.state})
    price = f", {left * cost_per_hour:.2f} of {total * cost_per_hour:.2f} in cost" if cost_per_hour else ""
    hours = f"{len(every)} cells, {total:.3g} hours of a process, {left:.3g} to go{price}"
    return f"{aligned(rows)}\n\n{hours}; at {per_second:.3g} FLOP/s ({source})"


def status(every: Sequence) -> str:
    """The table of --status."""
    from t5x_like.scaling.sweeps import sweep, trials

    rows, states, errors = [], [], []
    for cell in every:
        found = trials.progress(cell)
        states.append(found.state)
        errors += [f"{cell.run_id} failed: {found.error} ({cell.run_dir / 'log.txt'})"] if found.error else []
        losses = {
            name: "" if math.isnan(x) else f"{x:.4f}" for name, x in (("loss", found.loss), ("eval", found.eval_loss))
        }
        rows.append({"cell": cell.run_id, "state": found.state, "step": f"{found.step}/{cell.steps}"} | losses)
        rows[-1]["what"] = sweep.titled(cell)
    summary = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return "\n".join([aligned(rows), "", summary, *errors])
