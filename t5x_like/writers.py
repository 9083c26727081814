"""Writers of a run directory: config.gin, model_info.txt, metrics.jsonl, TensorBoard events and the loss plot."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from t5x_like.files import lines
from t5x_like.run_dir import RunDir
from t5x_like.types import PathLike, Vocabulary

RESUMED = "resumed"  # marks a record: later steps before this line do not count


def write_run_files(run_dir: PathLike, config: str, model_info: str, vocabulary: Vocabulary, first: int | None) -> None:
    """Writes config.gin, vocabulary/ and model_info.txt on the first process, once everything has been checked.

    The first two are written once per run. `first` is the step from which a run resumes; None is a new run, which replaces
    what an earlier attempt left here. Another configuration of a resumed run is config.step_FIRST.gin.
    """
    if jax.process_index() != 0:
        return
    layout = RunDir(run_dir)
    if first is None or not layout.vocabulary.exists():
        replace_folder(layout.vocabulary, vocabulary.save)
    for step, path in layout.later_configs().items():
        if first is None or step > first:
            path.unlink()
    newest = layout.newest_config
    if config and (first is None or not newest.exists()):
        replace_text(layout.config, config)
    elif config and newest.read_text() != config:
        replace_text(layout.config.with_name(f"config.step_{first}.gin"), config)
    replace_text(layout.model_info, model_info)


def replace_text(path: Path, text: str) -> None:
    """Writes a file so that a kill leaves the old text or the new one."""
    temporary = path.with_name(f"{path.name}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)


def replace_folder(folder: Path, save: Callable[[Path], object]) -> None:
    """Writes a folder, in place of one that another process may have left incomplete."""
    temporary = folder.with_name(f"{folder.name}.tmp")
    for path in (temporary, folder):
        shutil.rmtree(path, ignore_errors=True)
    save(temporary)
    temporary.rename(folder)


class RunWriter:
    """Appends scalars to metrics.jsonl and TensorBoard.

    What an interrupted run wrote after step `first` stays in metrics.jsonl, followed by a record of the resumption, so that
    `read_metrics` leaves it out. Only the first process writes. `last` holds the newest value of every scalar.
    """

    def __init__(self, run_dir: PathLike, first: int = 0) -> None:
        self.last: dict[str, float] = {}
        self.active = jax.process_index() == 0
        self.folder = Path(run_dir)
        if self.active:
            self._open(first)

    def _open(self, first: int) -> None:
        from tensorboardX import SummaryWriter  # takes a second to import, after all checks have passed

        path = RunDir(self.folder).metrics
        if any(record["step"] > first for record in read_metrics(path)):
            lines.append_record(path, {"step": first, RESUMED: True})
        self.file = lines.open_append(path)
        self.events = SummaryWriter(str(self.folder), purge_step=first + 1 if first else None)

    def __enter__(self) -> "RunWriter":
        return self

    def __exit__(self, *_: object) -> None:
        if self.active:
            self.file.close()
            self.events.close()

    def drop_after(self, step: int) -> None:
        """Marks the records of later steps as superseded."""
        if self.active:
            self.__exit__()
            self._open(step)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Appends one line to metrics.jsonl and one TensorBoard event per scalar."""
        self.last |= scalars
        if self.active:
            self.file.write(json.dumps({"step": step} | scalars) + "\n")
            self.file.flush()
            for name, value in scalars.items():
                self.events.add_scalar(name if "/" in name else f"train/{name}", value, step)


def read_metrics(path: PathLike) -> list[dict[str, Any]]:
    """The records of a metrics.jsonl, each with "step", without those that a resumed run has superseded."""
    records: list[dict[str, Any]] = []
    for record in lines.read_records(path):
        if not isinstance(record.get("step"), int):
            continue
        if record.get(RESUMED):
            records = [earlier for earlier in records if earlier["step"] <= record["step"]]
        else:
            records.append(record)
    return records


def plot_losses(run_dir: PathLike) -> Path:
    """Plots training and validation loss over steps into loss.png and returns its path."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    layout = RunDir(run_dir)
    records = read_metrics(layout.metrics)
    figure, axes = plt.subplots(figsize=(7, 4))
    for name, label, marker in (("loss", "train", ""), ("eval/loss", "validation", "o")):
        points = [(record["step"], record[name]) for record in records if name in record]
        if points:
            axes.plot(*zip(*points, strict=True), marker=marker, label=label)
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=Path(run_dir).name)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(layout.loss_plot, dpi=120)
    plt.close(figure)
    return layout.loss_plot
