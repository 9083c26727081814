"""What a run writes beside its checkpoints: config.gin, model_info.txt, metrics.jsonl, TensorBoard events, a loss plot."""

import json
from pathlib import Path

import jax


def write_run_files(run_dir, config: str, model_info: str) -> None:
    """config.gin and model_info.txt; an older config.gin that differs is kept under a number. First process only."""
    if jax.process_index() != 0:
        return
    folder = Path(run_dir)
    (folder / "model_info.txt").write_text(model_info)
    path = folder / "config.gin"
    if path.exists() and path.read_text() != config:
        numbered = (folder / f"config.{i}.gin" for i in range(1, 10**6))
        path.rename(next(free for free in numbered if not free.exists()))
    if config:
        path.write_text(config)


class RunWriter:
    """Appends metrics to metrics.jsonl and to TensorBoard; what a dead run wrote after `first` steps is dropped.

    `last` holds the newest value of every metric.
    """

    def __init__(self, run_dir, first: int = 0):
        self.last: dict[str, float] = {}
        self.active = jax.process_index() == 0
        if not self.active:
            return
        self.folder = Path(run_dir)
        self.open(first)

    def open(self, first: int) -> None:
        from tensorboardX import SummaryWriter  # takes a second to import, after all checks have passed

        path = self.folder / "metrics.jsonl"
        kept = [line for line in whole_lines(path) if line["step"] <= first]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.file = open(path, "a")  # noqa: SIM115
        self.events = SummaryWriter(str(self.folder), purge_step=first + 1 if first else None)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.active:
            self.file.close()
            self.events.close()

    def go_back(self, step: int) -> None:
        """Drops what was written of later steps."""
        if self.active:
            self.__exit__()
            self.open(step)

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """One line of metrics.jsonl and one TensorBoard event a scalar."""
        self.last |= scalars
        if self.active:
            self.file.write(json.dumps({"step": step} | scalars) + "\n")
            self.file.flush()
            for name, value in scalars.items():
                self.events.add_scalar(name if "/" in name else f"train/{name}", value, step)


def whole_lines(path: Path) -> list[dict]:
    """The records of a metrics.jsonl; a last line that was cut off is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def plot_losses(run_dir) -> Path:
    """Draws training and evaluation loss over steps to run_dir/loss.png."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    records = whole_lines(Path(run_dir) / "metrics.jsonl")
    figure, axes = plt.subplots(figsize=(7, 4))
    for name, label, marker in (("loss", "train", ""), ("eval/loss", "validation", "o")):
        points = [(r["step"], r[name]) for r in records if name in r]
        if points:
            axes.plot(*zip(*points, strict=True), marker=marker, label=label)
    axes.set(xlabel="step", ylabel="loss (nats per token)", title=Path(run_dir).name)
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    path = Path(run_dir) / "loss.png"
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
