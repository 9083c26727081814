"""A ladder of small runs forecasts one of ten times the compute of its largest, before that is trained; then it is trained.

On a CPU: IsoFLOP curves at four budgets on Python's own library, in bytes, sized by sweeps/ladder.gin so that everything ends
within --minutes, the run that is forecast too. With --device=gpu: budgets of 2e14, 6e14 and 2e15 FLOPs, target 2e16, on the
Python files of --corpus. The law is chosen by its error on later runs alone (score.compare); the forecast is written with
its hash (forecast.json) before the target starts. The same command goes on where it was stopped.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import report
from t5x_like.cli import main
from t5x_like.cli.gin import runtime
from t5x_like.scaling.laws import backtest, fit, laws, table
from t5x_like.scaling.planning import forecast, plan
from t5x_like.scaling.sweeps import ladder

FORMS = (laws.CHINCHILLA, laws.TIED)  # with a floor, as text has one: without it losses far ahead come out too low
SETTLING = 1.0  # minutes of --minutes for starting, fitting and settling
EPOCHS_OF_NEWS = 4  # repeats up to here are nearly worth new tokens (Muennighoff et al. 2023)


@dataclasses.dataclass(frozen=True)
class Preset:
    """A sweep file, what is set in it, and what the target's run may use."""

    gin_file: str
    macros: tuple[str, ...] = ()
    target_macros: tuple[str, ...] = ()
    target: float | None = None


PRESETS = {
    "cpu": Preset("sweeps/ladder.gin", target_macros=("PROCESSES=1",)),
    "gpu": Preset("sweeps/ladder_gpu.gin", target=2e16),
}


def sweep(preset: Preset, directory: Path, overrides: Sequence[str]) -> table.Table:
    """Runs a sweep, or goes on with it; its table."""
    flags = [f"--gin.{text}" for text in (f"SWEEP_DIR={directory}", *preset.macros, *overrides)]
    if main.main(["sweep", f"--gin_file={preset.gin_file}", *flags]):
        raise SystemExit(f"not all runs of {directory} finished; look at its log.txt files and run this again")
    return table.read(directory / "runs.csv")


def trusted(runs: table.Table) -> tuple[fit.Fit, list[backtest.Score]]:
    """The fit of the law with the lowest error on later runs, and all scores."""
    scores = backtest.compare(runs, FORMS, ladder.OBJECTIVE)
    return fit.fit(runs, scores[0].law, ladder.OBJECTIVE), scores


def target_shape(args: argparse.Namespace, flops: float, n_params: float) -> dict[str, int]:
    """The shape of the target: N that the fit says is best, by the ladder's own rule."""
    return configuration(args).evaluate("%SHAPES")(n_params)


def configuration(args: argparse.Namespace) -> runtime.Config:
    """What the sweep file says, with the flags' macros."""
    flags = [f"--gin.{text}" for text in (f"SWEEP_DIR={args.dir}", *macros(args))]
    return runtime.parse([PRESETS[args.device].gin_file], flags)


def macros(args: argparse.Namespace) -> list[str]:
    return [*args.set, *([f"CORPUS={args.corpus!r}"] if args.corpus else [])]


def register(args: argparse.Namespace, runs: table.Table, flops: float) -> tuple[forecast.Forecast, dict[str, Any]]:
    """The forecast and the shape it is for: made once, before the target's first step."""
    path, shape_path = args.dir / "forecast.json", args.dir / "target.json"
    if not path.exists():
        found, scores = trusted(runs)
        for one in scores:
            print(f"{one.law.name}: {one}")
        best = plan.from_fit(plan.Budget(flops), found)
        shape = target_shape(args, flops, best.n_params.value)
        n_params = counted(args, shape)
        at = {"n_params": n_params, "tokens": flops / 6 / n_params, "flops_6nd": flops}
        made = forecast.forecast(
            found, {name: at[name] for name in found.law.inputs}, note=f"target of {args.dir.name}"
        )
        shape_path.write_text(json.dumps(shape) + "\n")
        print(f"forecast registered: sha256 {forecast.register(made, path)}")
        time.sleep(1.5)  # times are kept to the second, and the forecast must be the older one
    return forecast.read(path), json.loads(shape_path.read_text())


def counted(args: argparse.Namespace, shape: dict[str, int]) -> int:
    """N of a shape, from the model itself."""
    from t5x_like.cli.sweeping.trials import Base

    config = configuration(args)
    files, settings = config.evaluate("%BASE"), config.evaluate("%SETTINGS")
    return Base(files, settings, args.dir).counts(shape).n_params


def train_target(args: argparse.Namespace, shape: dict[str, int], flops: float) -> table.Table:
    """The run that was forecast, with the recipe of the ladder."""
    preset = PRESETS[args.device]
    design = ("DESIGN=@designs.Grid()", f"designs.Grid.axes={{'shape': ({shape},)}}", f"designs.Grid.flops={flops!r}")
    return sweep(preset, args.dir / "target", (*macros(args), *preset.target_macros, *design))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--dir", type=Path, default=Path("runs/scaling_ladder"), help="of runs, tables and the forecast"
    )
    parser.add_argument("--minutes", type=float, default=25.0, help="for all of it, on the CPU (default: %(default)s)")
    parser.add_argument("--device", choices=PRESETS, default="cpu")
    parser.add_argument("--corpus", help="with --device=gpu: a glob of text files, each a document")
    parser.add_argument("--set", action="append", default=[], metavar="MACRO=VALUE", help="in the ladder's sweep file")
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    return args


def run(args: argparse.Namespace) -> None:
    """Ladder, forecast, target, score."""
    started, preset = time.monotonic(), PRESETS[args.device]
    sizing = (f"MINUTES={args.minutes - SETTLING!r}",) if preset.target is None else ()
    runs = sweep(preset, args.dir / "ladder", (*sizing, *macros(args)))
    largest = float(runs["flops_6nd"].max())
    chosen = args.dir / "ladder" / "ladder.json"
    flops = preset.target or json.loads(chosen.read_text())["target"]["FLOPS"]
    ladder_minutes = (time.monotonic() - started) / 60
    made, shape = register(args, runs, flops)
    print(f"forecast for {shape}: {made.value:.4f}, {made.level:.0%} {made.low:.4f} to {made.high:.4f}")
    result = train_target(args, shape, flops)
    row = result.rows()[0]
    settled = forecast.settle(made, row["loss"], row["started"])
    every = table.from_rows([*runs.rows(), row])
    every.write(args.dir / "table.csv")
    print(settled)
    epochs = row["tokens"] / row["unique_tokens"]
    if epochs > EPOCHS_OF_NEWS:
        print(f"the target saw its corpus {epochs:.1f} times: part of the error is what repeats are worth")
    report.finish(
        runs=len(runs),
        target_flops=flops,
        times_the_largest=flops / largest,
        law=made.law,
        forecast=made.value,
        low=made.low,
        high=made.high,
        actual=row["loss"],
        error=settled.error,
        inside=settled.inside,
        epochs=epochs,
        ladder_minutes=ladder_minutes,
        minutes=(time.monotonic() - started) / 60,
    )


if __name__ == "__main__":
    run(arguments())
