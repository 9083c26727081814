"""Forecasts that are registered and dated before a run, and verified after it.

A forecast is a JSON object with the SHA-256 of its own content. The hash shows that a file was not edited since it was
written. It shows others that the file was written *before* the run only if it was published then: put it into a commit, an
issue or a mail.
"""

import dataclasses
import datetime
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

from t5x_like.scaling.laws.fit import Fit
from t5x_like.types import PathLike

INPUT_TOLERANCE = 0.01  # a run whose inputs are within this share of a forecast's is the run that was forecast


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The predicted target of a future run, its interval, and the law it comes from. `created` is UTC in ISO 8601."""

    created: str
    target: str
    at: Mapping[str, float]  # the run's inputs
    value: float
    low: float
    high: float
    level: float
    law: str
    constants: Mapping[str, float]
    rows: int
    note: str = ""

    @property
    def sha256(self) -> str:
        """The SHA-256 of the content as canonical JSON."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Verification:
    """A forecast, the run's actual result, the relative error, and whether the interval contains the result."""

    forecast: Forecast
    actual: float
    error: float
    inside: bool

    def __str__(self) -> str:
        it = self.forecast
        where = "inside" if self.inside else "OUTSIDE"
        return (
            f"forecast {it.value:.5g}, actual {self.actual:.5g}: error {100 * self.error:+.3g}%, {where} the {100 * it.level:g}% "
            f"interval {it.low:.5g} to {it.high:.5g} (made {it.created}, sha256 {it.sha256[:16]})"
        )


def make_forecast(fit: Fit, at: Mapping[str, float], note: str = "") -> Forecast:
    """Forecasts the run with these inputs, dated now.

    Raises:
      ValueError: an input is not positive.
    """
    for name, value in at.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value:g}: a run has a positive number here; correct it")
    prediction = fit.predict({name: [value] for name, value in at.items()})
    return Forecast(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        target=fit.law.target,
        at=dict(at),
        value=float(prediction.value[0]),
        low=float(prediction.low[0]),
        high=float(prediction.high[0]),
        level=prediction.level,
        law=fit.law.equation,
        constants=fit.constants,
        rows=fit.rows,
        note=note,
    )


def register(forecast: Forecast, path: PathLike) -> str:
    """Writes a forecast to a new file; returns its hash.

    Raises:
      FileExistsError: the file exists.
    """
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(dataclasses.asdict(forecast) | {"sha256": forecast.sha256}, file, indent=2)
            file.write("\n")
    except FileExistsError:
        raise FileExistsError(f"{path} exists, and a forecast is written only once; name a new file") from None
    return forecast.sha256


def read(path: PathLike) -> Forecast:
    """Reads a registered forecast.

    Raises:
      ValueError: the file is not a forecast, or was edited since it was registered.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        sha256 = content.pop("sha256")
        forecast = Forecast(**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a forecast ({error!r}); write one with t5x_like register") from None
    if forecast.sha256 != sha256:
        raise ValueError(
            f"{path} was edited after it was registered: its sha256 is {forecast.sha256}, the file says {sha256}"
        )
    return forecast


def verify(forecast: Forecast, actual: float, started: str) -> Verification:
    """Compares a forecast with the run's result; `started` is when the run began, in ISO 8601 (UTC without a zone).

    Raises:
      ValueError: the forecast is not older than the run's start, `started` is not a time, or `actual` is not a result.
    """
    if not math.isfinite(actual) or actual == 0:
        raise ValueError(f"actual={actual} is not a {forecast.target} that a run can reach; give the run's result")
    try:
        begin = parse_utc(started)
    except ValueError:
        raise ValueError(
            f"started={started!r} is not a time in ISO 8601; write it like 2026-01-31T12:00:00+00:00"
        ) from None
    if parse_utc(forecast.created) >= begin:
        raise ValueError(
            f"the forecast was made {forecast.created}, the run started {started}: a forecast made after the start cannot be "
            "verified; register one before the next run"
        )
    error = (forecast.value - actual) / actual
    return Verification(forecast, float(actual), float(error), forecast.low <= actual <= forecast.high)


def parse_utc(time: str) -> datetime.datetime:
    """Parses a time in ISO 8601, UTC without a zone."""
    moment = datetime.datetime.fromisoformat(time)
    return moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)
