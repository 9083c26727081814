"""Saves train states in a thread while training continues, and restores them onto any mesh."""

import concurrent.futures
import itertools
import math
import mmap
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from t5x_like.checkpoints import folder as files
from t5x_like.checkpoints import verify
from t5x_like.types import PathLike

ALIGNMENT = 64  # bytes; JAX uses a NumPy array that is aligned to this as it is


class Snapshot:
    """Copies a state, again and again; a copy is valid until the next one.

    A CPU copies at once, to pages of its own that are kept. In malloc's memory the copy would lie where the buffers of the next
    step have to go, and the process would grow by those (benchmarks/memory.py). Other devices copy on themselves, without
    blocking; if they lack memory for that, the arrays are moved to host memory, which blocks.
    """

    def __init__(self) -> None:
        self._pages = np.empty(0, np.uint8)

    def copy(self, state: Any) -> Any:
        """A copy of a state."""
        leaves = jax.tree.leaves(state)
        if all(isinstance(x, jax.Array) and on_one_cpu(x) for x in leaves):
            return jax.tree.unflatten(jax.tree.structure(state), self._copy_to_pages(leaves))
        size = sum(x.nbytes for x in leaves) // max(jax.device_count(), 1)
        stats = jax.local_devices()[0].memory_stats() or {}
        free = stats.get("bytes_limit", 2**62) - stats.get("bytes_in_use", 0)
        if free > 1.5 * size or jax.process_count() > 1:
            return jax.tree.map(lambda x: jax.device_put(x, x.sharding, may_alias=False), state)
        return jax.tree.map(np.asarray, state)

    def _copy_to_pages(self, arrays: Sequence[jax.Array]) -> list[jax.Array]:
        starts = [0, *itertools.accumulate(-(-x.nbytes // ALIGNMENT) * ALIGNMENT for x in arrays)]
        if self._pages.size < starts[-1]:
            self._pages = allocate_pages(starts[-1])
        copies = []
        for x, start in zip(arrays, starts, strict=False):
            copy = self._pages[start : start + x.nbytes].view(x.dtype).reshape(x.shape)
            np.copyto(copy, np.asarray(x))
            copies.append(jax.device_put(copy, x.sharding, may_alias=True))
        return copies


def on_one_cpu(x: jax.Array) -> bool:
    """Whether an array lies in the memory of this process as a whole."""
    devices: list[Any] = list(x.sharding.device_set)
    return len(devices) == 1 and devices[0].platform == "cpu"


def allocate_pages(size: int) -> np.ndarray:
    """Memory of `size` bytes that is not malloc's, in large pages where the system has them."""
    pages = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8)


class Checkpointer:
    """Saves and restores states under one directory; keeps the newest `keep_last` and the `keep_best` of lowest loss.

    With `checksums` the files' checksums are computed when a state is saved, and compared when it is restored.

    Raises:
      ValueError: keep_last < 1.
      PermissionError: the directory cannot be written.
    """

    def __init__(self, directory: PathLike, keep_last: int = 3, keep_best: int = 0, checksums: bool = True):
        if keep_last < 1:
            raise ValueError(f"keep_last={keep_last} must be at least 1: a run resumes from its newest checkpoint")
        self.directory = Path(directory).absolute()
        self.keep_last, self.keep_best, self.checksums = keep_last, keep_best, checksums
        self.meta: dict[str, Any] = {}
        self._restored: int | None = None
        files.check_writable(self.directory)
        self._remove_incomplete()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._pending: concurrent.futures.Future | None = None
        self._snapshot = Snapshot()

    def _remove_incomplete(self) -> None:
        """Removes what a process that died while saving left behind."""
        if jax.process_index() == 0:
            for folder in self.directory.iterdir():
                if folder.is_dir() and not (folder / files.MANIFEST).exists():
                    shutil.rmtree(folder, ignore_errors=True)

    def save(self, step: int, state: Any, meta: dict, metrics: dict | None = None, prune: bool = True) -> None:
        """Copies the state and returns; a thread writes it.

        Errors of a save are raised by the next `save` or `wait`. With `prune` False older checkpoints are kept until the
        next save. `metrics["loss"]` ranks the checkpoint for `keep_best`.
        """
        self.wait()
        snapshot = self._snapshot.copy(state)
        self._pending = self._thread.submit(self._write, step, snapshot, dict(meta), dict(metrics or {}), prune)

    def _write(self, step: int, state: Any, meta: dict, metrics: dict, prune: bool) -> None:
        folder = self.directory / str(step)
        if jax.process_index() == 0:
            self._set_damaged_aside()
            shutil.rmtree(folder, ignore_errors=True)
        facts = {"step": step, "meta": meta, "metrics": metrics}
        files.write(folder, files.leaves_by_name(state), facts, self.checksums)
        if jax.process_index() == 0 and prune:
            self._prune()

    def _prune(self) -> None:
        steps = self.steps()
        keep = set(steps[-self.keep_last :])
        losses = sorted((self._loss(step), step) for step in steps if self.keep_best)
        keep |= {step for loss, step in losses[: self.keep_best] if loss < math.inf}
        self._remove(set(steps) - keep)

    def _loss(self, step: int) -> float:
        """The loss that ranks a checkpoint; infinite if it has none."""
        try:
            loss = files.manifest(self.directory / str(step))["metrics"].get("loss", math.inf)
        except files.DamagedCheckpointError:
            return math.inf
        return loss if math.isfinite(loss) else math.inf

    def _remove(self, steps: Iterable[int]) -> None:
        for step in steps:
            folder = self.directory / str(step)
            (folder / files.MANIFEST).unlink()  # first: a half-removed checkpoint is not a checkpoint
            shutil.rmtree(folder, ignore_errors=True)

    def drop_after(self, step: int) -> None:
        """Removes the checkpoints of later steps."""
        self.wait()
        if jax.process_index() == 0:
            self._remove([later for later in self.steps() if later > step])

    def wait(self) -> None:
        """Blocks until the last save is on disk."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Waits for the last save and ends the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending."""
        return files.complete_steps(self.directory)

    def latest_step(self) -> int | None:
        """The newest step whose files have the right sizes. Warns of damaged ones and skips them."""
        self.wait()
        return verify.latest_step(self.directory)

    def restore(self, abstract: Any, step: int | None = None) -> tuple[Any, dict]:
        """(state, meta) of a step, on the shardings and in the dtypes of `abstract`; `self.meta` becomes this meta.

        By default it is the newest undamaged step. Later, damaged ones are renamed to STEP.damaged when a state is saved.

        Raises:
          FileNotFoundError: no checkpoint.
          DamagedCheckpointError: all are damaged, or the one of `step`.
          ValueError: arrays that are missing, left over or of another shape, by name with both shapes.
        """
        self.wait()
        wanted = files.leaves_by_name(abstract)

        def read(folder: Path) -> tuple[dict, dict]:
            manifest = files.manifest(folder)
            files.check_same(wanted, manifest["arrays"], f"checkpoint {folder}")
            return files.read(folder, wanted), manifest["meta"]

        if step is None:
            (arrays, self.meta), folder = verify.read_newest(self.directory, read, self.checksums)
            self._restored = int(folder.name)
        elif step not in self.steps():
            raise FileNotFoundError(f"no checkpoint of step {step} in {self.directory}")
        else:
            arrays, self.meta = verify.read_checked(self.directory / str(step), read, self.checksums)
        leaves = [arrays[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(abstract), leaves), self.meta

    def _set_damaged_aside(self) -> None:
        """Renames the checkpoints after the restored one, so that they do not count among the newest."""
        restored, self._restored = self._restored, None
        for later in (step for step in self.steps() if restored is not None and step > restored):
            aside = self.directory / f"{later}.damaged"
            shutil.rmtree(aside, ignore_errors=True)
            os.replace(self.directory / str(later), aside)
