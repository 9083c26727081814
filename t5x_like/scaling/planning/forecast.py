"""Forecasts that can be held against their author: written and dated before a run, scored after it.

A forecast is a JSON object with the SHA-256 of its own content. The hash shows that a file was not edited since it was
written; that it was written *before* the run, others can only believe if the hash was made known then: print it in a
commit, an issue or a mail.
"""

import dataclasses
import datetime
import hashlib
import json
import math
from collections.abc import Mapping
from pathlib import Path

from t5x_like.scaling.laws.fit import Fit

SAME = 0.01  # a run within this share of a forecast's inputs is the run that was forecast


@dataclasses.dataclass(frozen=True)
class Forecast:
    """The target of a run to come, and what says so. `created` is UTC in ISO 8601."""

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
        """Of the content, as canonical JSON."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()


@dataclasses.dataclass(frozen=True)
class Settlement:
    """A forecast against what came out; `error` is relative."""

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


def forecast(found: Fit, at: Mapping[str, float], note: str = "") -> Forecast:
    """What `found` says of the run at these inputs, dated now."""
    for name, value in at.items():
        if not (math.isfinite(value) and value > 0):
            raise ValueError(f"{name}={value:g}: a run has a positive number there; correct it")
    predicted = found.predict({name: [value] for name, value in at.items()})
    return Forecast(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        target=found.law.target,
        at=dict(at),
        value=float(predicted.value[0]),
        low=float(predicted.low[0]),
        high=float(predicted.high[0]),
        level=predicted.level,
        law=found.law.equation,
        constants=found.constants,
        rows=found.rows,
        note=note,
    )


def register(made: Forecast, path) -> str:
    """Writes a forecast, never over another; returns its hash.

    Raises:
      FileExistsError: the file is there already.
    """
    try:
        with open(path, "x", encoding="utf-8") as file:
            json.dump(dataclasses.asdict(made) | {"sha256": made.sha256}, file, indent=2)
            file.write("\n")
    except FileExistsError:
        raise FileExistsError(f"{path} is there already, and a forecast is written once; name a new file") from None
    return made.sha256


def read(path) -> Forecast:
    """A registered forecast.

    Raises:
      ValueError: the file is none, or was edited since it was written.
    """
    try:
        kept = json.loads(Path(path).read_text(encoding="utf-8"))
        written = kept.pop("sha256")
        found = Forecast(**kept)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no forecast ({error!r}); t5x_like register writes them") from None
    if found.sha256 != written:
        raise ValueError(f"{path} was edited after it was registered: its sha256 is {found.sha256}, it says {written}")
    return found


def settle(made: Forecast, actual: float, started: str) -> Settlement:
    """Scores a forecast by the run's result; `started` is when the run began, in ISO 8601 (UTC where it names no zone).

    Raises:
      ValueError: the forecast is not older than the run's start, `started` is no time, or `actual` is no result.
    """
    if not math.isfinite(actual) or actual == 0:
        raise ValueError(f"actual={actual} is no {made.target} that a run ends at; give the number the run came to")
    try:
        begin = utc(started)
    except ValueError:
        raise ValueError(
            f"started={started!r} is no time in ISO 8601; write it like 2026-01-31T12:00:00+00:00"
        ) from None
    if utc(made.created) >= begin:
        raise ValueError(
            f"the forecast was made {made.created}, the run started {started}: a forecast made after the start settles nothing; "
            "register one before the next run"
        )
    error = (made.value - actual) / actual
    return Settlement(made, float(actual), float(error), made.low <= actual <= made.high)


def utc(time: str) -> datetime.datetime:
    found = datetime.datetime.fromisoformat(time)
    return found if found.tzinfo else found.replace(tzinfo=datetime.UTC)
