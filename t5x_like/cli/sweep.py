"""Trains a sweep of runs for scaling laws: trials from one gin file, finished ones skipped, all results in one table.

  t5x_like sweep --gin_file=sweeps/isoflop.gin --gin.SWEEP_DIR=/tmp/sweep --dry_run
  t5x_like sweep --gin_file=sweeps/isoflop.gin --gin.SWEEP_DIR=/tmp/sweep

--dry_run lists every trial with its FLOPs, steps, hours and cost, and trains nothing (for sweeps/ladder.gin: only the runs that
size it, once). Run the same command again to resume: finished trials are skipped, interrupted ones resume from their
checkpoints, failed ones wait for --retry. --status shows the progress. At the end, and with --collect, SWEEP_DIR/runs.csv
has a row for every run, for `t5x_like fit`.
"""

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from t5x_like import interrupts
from t5x_like.cli import flags
from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.cli.sweeping.tables import format_table

if TYPE_CHECKING:
    from t5x_like.scaling.sweeps.trials import Trial

ASSUMED_UTILIZATION = 0.4  # of the peak FLOP/s of a matmul, for a first estimate of hours


def main(argv: Sequence[str]) -> int:
    """Runs the command; returns its exit code."""
    parser = flags.Parser(
        prog="t5x_like sweep", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="list the trials and their cost; train only what sizes a ladder"
    )
    parser.add_argument("--status", action="store_true", help="show the progress of every trial; train nothing")
    parser.add_argument("--retry", action="store_true", help="resume failed trials from their checkpoints")
    parser.add_argument("--collect", metavar="TABLE", help="write the table (.csv or .parquet) here; train nothing")
    parser.add_argument(
        "--replicas",
        type=flags.positive,
        default=1,
        metavar="N",
        help="train up to N trials that differ in learning rate and seed as one vmapped program",
    )
    parser.add_argument("--cost_per_hour", type=flags.amount, default=0.0, help="cost of one process, for --dry_run")
    parser.add_argument(
        "--flops_per_second",
        type=flags.positive_number,
        help="FLOP/s of one process, for --dry_run (default: measured on finished trials, else an assumption)",
    )
    parser.add_argument("--minutes", type=flags.positive_number, help="time for sweeps/ladder.gin (sets its MINUTES)")
    parser.add_argument("--coordinate_check", action="store_true", help="muP: show how far activations move, by width")
    parser.add_argument("--lr_transfer", action="store_true", help="muP: show the best learning rate of every width")
    parser.add_argument("--trial", action="append", metavar="RUN_DIR", help="used by executors: train this trial")
    runtime.add_flags(parser)
    flags.add_machine(parser)
    args = runtime.parse_args(parser, argv)
    from t5x_like.cli.sweeping import trial

    trial.restrict_cores()
    from t5x_like.cli import setup

    check(args)
    parser.check_needless(args, ["cost_per_hour", "flops_per_second"], "dry_run")
    if args.minutes is not None:
        args.gin_overrides.append(f"--gin.MINUTES={args.minutes!r}")
    if args.trial:
        setup.initialize(args)
        return trial.train(args.trial)
    with interrupts.explain("stopped; running trials saved their state, and the same command resumes the sweep"):
        return run(args)


def check(args: argparse.Namespace) -> None:
    """Raises ConfigError if no sweep is given, before any file is read."""
    if not args.trial and not args.gin_file:
        raise ConfigError("no --gin_file is given; start with --gin_file=sweeps/isoflop.gin --gin.SWEEP_DIR=FOLDER")


def run(args: argparse.Namespace) -> int:
    """Runs the sweep. This process only reads and waits, on the CPU: accelerators are left to the trials."""
    import jax

    from t5x_like.cli.sweeping.trials import BaseConfig
    from t5x_like.scaling.sweeps import ladder, sweep

    jax.config.update("jax_platforms", "cpu")
    config = runtime.from_flags(args).bind("sweep.Sweep")()
    search_paths = runtime.search_paths(args)
    base = BaseConfig(config.base, config.settings, Path(config.directory) / "trials", search_paths)
    if args.coordinate_check:
        from t5x_like.cli.sweeping import mup

        return mup.check_coordinates(config, base)
    if isinstance(config.design, ladder.TimeBudgetLadder):
        from t5x_like.cli.sweeping import ladder as sweep_ladder

        config = sweep_ladder.size_ladder(config, base, read_only_flag(args))
    all_trials = sweep.resolve_trials(config, base)
    if args.dry_run:
        print(format_plan(all_trials, process_speed(all_trials, args.flops_per_second), args.cost_per_hour))
        return 0
    if args.status:
        print(format_status(all_trials))
        return 0
    if args.lr_transfer:
        from t5x_like.cli.sweeping import mup

        return mup.print_transfer(all_trials)
    path = Path(args.collect or Path(config.directory) / "runs.csv")
    finished = True if args.collect else sweep.run(all_trials, config.executor, args.retry, args.replicas)
    print(f"{len(sweep.write_table(all_trials, path))} rows: {path}")
    if not finished:
        print(format_status(all_trials))
    return 0 if finished else 1


def read_only_flag(args: argparse.Namespace) -> str | None:
    """The given flag that only reads what has been trained, if any."""
    if args.dry_run:
        return None
    return next((f"--{name}" for name in ("status", "lr_transfer", "collect") if getattr(args, name)), None)


def process_speed(all_trials: Sequence["Trial"], flops_per_second: float | None) -> tuple[float, str]:
    """(FLOP/s of one process, the source of the figure)."""
    from t5x_like.accounting import flops
    from t5x_like.scaling.sweeps import collect, trials

    if flops_per_second is not None:
        return flops_per_second, "--flops_per_second"
    finished = [trial for trial in all_trials if trials.read_progress(trial).state == trials.FINISHED]
    seconds = sum(collect.total_seconds(trials.read_attempts(trial.run_dir)) for trial in finished)
    if seconds:
        return sum(trial.columns["flops_exact"] for trial in finished) / seconds, f"{len(finished)} finished trials"
    peak, source = flops.peak_per_device()
    return ASSUMED_UTILIZATION * peak, f"{ASSUMED_UTILIZATION:.0%} of a {source}; set --flops_per_second if you know it"


def format_plan(all_trials: Sequence["Trial"], speed: tuple[float, str], cost_per_hour: float) -> str:
    """The table of --dry_run."""
    from t5x_like.scaling.sweeps import trials

    per_second, source = speed
    rows, total, left = [], 0.0, 0.0
    for trial in all_trials:
        progress, row = trials.read_progress(trial), trial.columns
        hours = row["flops_exact"] / per_second / 3600
        total += hours
        left += hours if progress.state != trials.FINISHED else 0.0
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
        rows.append({"trial": trial.run_id} | sizes | ratio | rest | cost | {"state": progress.state})
    price = f", cost {left * cost_per_hour:.2f} of {total * cost_per_hour:.2f}" if cost_per_hour else ""
    summary = f"{len(all_trials)} trials, {total:.3g} process hours, {left:.3g} remaining{price}"
    return f"{format_table(rows)}\n\n{summary}; at {per_second:.3g} FLOP/s ({source})"


def format_status(all_trials: Sequence["Trial"]) -> str:
    """The table of --status."""
    from t5x_like.scaling.sweeps import sweep, trials

    rows, states, errors = [], [], []
    for trial in all_trials:
        progress = trials.read_progress(trial)
        states.append(progress.state)
        if progress.error:
            errors.append(f"{trial.run_id} failed: {progress.error} ({trial.run_dir / 'log.txt'})")
        values = {"loss": progress.loss, "eval": progress.eval_loss}
        losses = {name: "" if math.isnan(value) else f"{value:.4f}" for name, value in values.items()}
        rows.append({"trial": trial.run_id, "state": progress.state, "step": f"{progress.step}/{trial.steps}"} | losses)
        rows[-1]["description"] = sweep.describe_trial(trial)
    summary = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    return "\n".join([format_table(rows), "", summary, *errors])
