"""Forecasts the loss of a target run from a ladder of small runs, then trains the target, with ten times the largest budget.

On a CPU: IsoFLOP curves at four budgets on Python's standard library, in bytes, sized by sweeps/ladder.gin so that ladder and
target fit into --minutes. With --device=gpu: budgets of 2e14, 6e14 and 2e15 FLOPs and a target of 2e16, on the Python files of
--corpus. The law is chosen by its error on later runs alone (backtest.compare). The forecast and its hash are written
(forecast.json) before the target starts. The same command resumes where it was stopped.
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

FORMS = (
    laws.CHINCHILLA,
    laws.CHINCHILLA_TIED,
)  # with an irreducible loss; without one, extrapolated losses are too low
OVERHEAD = 1.0  # minutes of --minutes for starting, fitting and scoring
USEFUL_EPOCHS = 4  # up to here, repeated tokens are nearly as good as new ones (Muennighoff et al. 2023)


@dataclasses.dataclass(frozen=True)
class Preset:
    """A sweep file, its macros, further macros of the target run, and the target's FLOPs (None: those that the ladder chose)."""

    gin_file: str
    macros: tuple[str, ...] = ()
    target_macros: tuple[str, ...] = ()
    target: float | None = None


PRESETS = {
    "cpu": Preset("sweeps/ladder.gin", target_macros=("PROCESSES=1",)),
    "gpu": Preset("sweeps/ladder_gpu.gin", target=2e16),
}


def sweep(preset: Preset, directory: Path, overrides: Sequence[str]) -> table.Table:
    """Runs or resumes a sweep and returns its table."""
    flags = [f"--gin.{text}" for text in (f"SWEEP_DIR={directory}", *preset.macros, *overrides)]
    if main.main(["sweep", f"--gin_file={preset.gin_file}", *flags]):
        raise SystemExit(f"not all runs of {directory} finished; see their log.txt files and run the command again")
    return table.read(directory / "runs.csv")


def choose_law(runs: table.Table) -> tuple[fit.Fit, list[backtest.Backtest]]:
    """Returns the fit of the law with the lowest error on later runs, and all scores."""
    scores = backtest.compare(runs, FORMS, ladder.OBJECTIVE)
    return fit.fit(runs, scores[0].law, ladder.OBJECTIVE), scores


def target_shape(args: argparse.Namespace, n_params: float) -> dict[str, int]:
    """Returns the shape with `n_params` parameters, by the rule of the ladder."""
    return read_config(args).evaluate("%SHAPES")(n_params)


def read_config(args: argparse.Namespace) -> runtime.Config:
    """Returns the configuration of the sweep file with the macros of the flags."""
    flags = [f"--gin.{text}" for text in (f"SWEEP_DIR={args.dir}", *macros(args))]
    return runtime.parse([PRESETS[args.device].gin_file], flags)


def macros(args: argparse.Namespace) -> list[str]:
    """The macros that the flags set."""
    return [*args.set, *([f"CORPUS={args.corpus!r}"] if args.corpus else [])]


def register(args: argparse.Namespace, runs: table.Table, flops: float) -> tuple[forecast.Forecast, dict[str, Any]]:
    """Returns the forecast and the shape of the target. The forecast is made once, before the target's first step."""
    path, shape_path = args.dir / "forecast.json", args.dir / "target.json"
    if not path.exists():
        fitted, scores = choose_law(runs)
        for score in scores:
            print(f"{score.law.name}: {score}")
        best = plan.from_fit(plan.Budget(flops), fitted)
        shape = target_shape(args, best.n_params.value)
        n_params = count_params(args, shape)
        at = {"n_params": n_params, "tokens": flops / 6 / n_params, "flops_6nd": flops}
        inputs = {name: at[name] for name in fitted.law.inputs}
        prediction = forecast.make_forecast(fitted, inputs, note=f"target of {args.dir.name}")
        shape_path.write_text(json.dumps(shape) + "\n")
        print(f"forecast registered: sha256 {forecast.register(prediction, path)}")
        time.sleep(1.5)  # times have a resolution of a second, and the forecast must be older than the run
    return forecast.read(path), json.loads(shape_path.read_text())


def count_params(args: argparse.Namespace, shape: dict[str, int]) -> int:
    """Returns N of a shape, counted on the model."""
    from t5x_like.cli.sweeping.trials import BaseConfig

    config = read_config(args)
    files, settings = config.evaluate("%BASE"), config.evaluate("%SETTINGS")
    return BaseConfig(files, settings, args.dir).counts(shape).n_params


def train_target(args: argparse.Namespace, shape: dict[str, int], flops: float) -> table.Table:
    """Trains the target with the recipe of the ladder; returns its table."""
    preset = PRESETS[args.device]
    design = ("DESIGN=@designs.Grid()", f"designs.Grid.axes={{'shape': ({shape},)}}", f"designs.Grid.flops={flops!r}")
    return sweep(preset, args.dir / "target", (*macros(args), *preset.target_macros, *design))


def parse_args() -> argparse.Namespace:
    """Parses the flags and makes the directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--dir", type=Path, default=Path("runs/scaling_ladder"), help="directory of runs, tables and the forecast"
    )
    parser.add_argument(
        "--minutes", type=float, default=25.0, help="for ladder and target, on the CPU (default: %(default)s)"
    )
    parser.add_argument("--device", choices=PRESETS, default="cpu")
    parser.add_argument("--corpus", help="with --device=gpu: a glob of text files, each one document")
    parser.add_argument(
        "--set", action="append", default=[], metavar="MACRO=VALUE", help="a macro of the ladder's sweep file"
    )
    args = parser.parse_args()
    args.dir.mkdir(parents=True, exist_ok=True)
    return args


def run(args: argparse.Namespace) -> None:
    """Trains the ladder, registers the forecast, trains the target, and verifies the forecast."""
    started, preset = time.monotonic(), PRESETS[args.device]
    sizing = (f"MINUTES={args.minutes - OVERHEAD!r}",) if preset.target is None else ()
    runs = sweep(preset, args.dir / "ladder", (*sizing, *macros(args)))
    largest = float(runs["flops_6nd"].max())
    budgets = args.dir / "ladder" / "ladder.json"
    flops = preset.target or json.loads(budgets.read_text())["target"]["FLOPS"]
    ladder_minutes = (time.monotonic() - started) / 60
    prediction, shape = register(args, runs, flops)
    interval = f"{prediction.level:.0%} {prediction.low:.4f} to {prediction.high:.4f}"
    print(f"forecast for {shape}: {prediction.value:.4f}, {interval}")
    result = train_target(args, shape, flops)
    row = result.rows()[0]
    outcome = forecast.verify(prediction, row["loss"], row["started"])
    table.from_rows([*runs.rows(), row]).write(args.dir / "table.csv")
    print(outcome)
    epochs = row["tokens"] / row["unique_tokens"]
    if epochs > USEFUL_EPOCHS:
        print(f"the target trained {epochs:.1f} epochs on its corpus: repeated tokens cause part of the error")
    report.print_json(
        runs=len(runs),
        target_flops=flops,
        times_the_largest=flops / largest,
        law=prediction.law,
        forecast=prediction.value,
        low=prediction.low,
        high=prediction.high,
        actual=row["loss"],
        error=outcome.error,
        inside=outcome.inside,
        epochs=epochs,
        ladder_minutes=ladder_minutes,
        minutes=(time.monotonic() - started) / 60,
    )


if __name__ == "__main__":
    run(parse_args())
