"""The layout of a run directory: what training writes, and where."""

import dataclasses
import re
from pathlib import Path

from t5x_like.types import PathLike


@dataclasses.dataclass(frozen=True)
class RunDir:
    """Paths of the files and folders inside the run directory `path`. Nothing is created."""

    path: PathLike

    @property
    def config(self) -> Path:
        """The resolved gin configuration with which the run started."""
        return Path(self.path) / "config.gin"

    def later_configs(self) -> dict[int, Path]:
        """The configurations of resumed runs that differ from the one before, by the step from which they apply."""
        paths = Path(self.path).glob("config.step_*.gin")
        found = {path: re.fullmatch(r"config\.step_(0|[1-9][0-9]*)\.gin", path.name) for path in paths}
        return dict(sorted((int(match[1]), path) for path, match in found.items() if match))

    @property
    def newest_config(self) -> Path:
        """The configuration of the newest checkpoints."""
        return [self.config, *self.later_configs().values()][-1]

    @property
    def lock(self) -> Path:
        """The lock that a process holds while it writes here; see `locks`."""
        return Path(self.path) / "lock"

    @property
    def model_info(self) -> Path:
        """Parameter names, shapes and shardings, as text."""
        return Path(self.path) / "model_info.txt"

    @property
    def vocabulary(self) -> Path:
        """The folder of the vocabulary; `tokenizers.loading.load` reads it."""
        return Path(self.path) / "vocabulary"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints, one subfolder per step."""
        return Path(self.path) / "checkpoints"

    @property
    def frozen(self) -> Path:
        """The frozen parameters, where no other run's checkpoint holds them; see `checkpoints.frozen`."""
        return Path(self.path) / "frozen"

    @property
    def metrics(self) -> Path:
        """Logged scalars, one JSON object per line; `writers.read_metrics` reads them."""
        return Path(self.path) / "metrics.jsonl"

    @property
    def alarms(self) -> Path:
        """Loss spikes, rollbacks and drift, one JSON object per line."""
        return Path(self.path) / "alarms.jsonl"

    @property
    def evaluations(self) -> Path:
        """The folder of evaluation records, TASK/STEP.json."""
        return Path(self.path) / "evaluations"

    @property
    def loss_plot(self) -> Path:
        """Training and validation loss over steps, as a PNG image."""
        return Path(self.path) / "loss.png"
