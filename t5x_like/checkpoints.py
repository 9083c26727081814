"""Checkpoints: written by a thread while training goes on, whole or not at all, restored onto any mesh. Orbax inside.

    <directory>/<step>/arrays/         every array of the state, by name ("params.decoder.norm.scale")
                      /manifest.json   step, meta, names with shapes, and the size of every file; written last

A step without a manifest, or whose files do not have the sizes it says, is no checkpoint.
"""

import concurrent.futures
import dataclasses
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from t5x_like.run_dir import RunDir

MANIFEST, ARRAYS = "manifest.json", "arrays"


def named(tree) -> dict[str, Any]:
    """The leaves of a tree by their path, joined with dots."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def copied(state):
    """A copy of the state on its devices, to be written while the next step reuses its buffers; does not wait.

    Where the devices' memory has no room for a copy the arrays go to host memory, and that is waited for.
    """
    size = sum(x.nbytes for x in jax.tree.leaves(state)) // max(jax.device_count(), 1)
    stats = jax.local_devices()[0].memory_stats() or {}
    free = stats.get("bytes_limit", 2**62) - stats.get("bytes_in_use", 0)
    if free > 1.5 * size or jax.process_count() > 1:
        return jax.tree.map(lambda x: jax.device_put(x, x.sharding, may_alias=False), state)
    return jax.tree.map(np.asarray, state)


def orbax() -> ocp.Checkpointer:
    """Orbax's own. Its processes wait for each other without the devices: a thread's collectives would meet the steps'."""
    everyone = ocp.options.MultiprocessingOptions(active_processes=set(range(jax.process_count())))
    handler = ocp.PyTreeCheckpointHandler(multiprocessing_options=everyone)
    return ocp.Checkpointer(handler, multiprocessing_options=everyone)


class Checkpointer:
    """Saves and restores states under one directory, keeping the last ones and the best ones.

    `keep_best` checkpoints with the lowest `best_metric` are kept besides the `keep_last` newest.

    Raises:
      PermissionError: the directory cannot be written; said at once, before anything is compiled.
    """

    def __init__(self, directory, keep_last: int = 3, keep_best: int = 0, best_metric: str = "loss"):
        if keep_last < 1:
            raise ValueError(f"keep_last={keep_last}: at least the newest checkpoint has to stay")
        self.directory = Path(directory).absolute()
        self.keep_last, self.keep_best, self.best_metric = keep_last, keep_best, best_metric
        check_writable(self.directory)
        self._clean()
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: concurrent.futures.Future | None = None
        self._orbax = orbax()

    def _clean(self) -> None:
        """Removes what a process that died while saving has left."""
        if jax.process_index() == 0:
            for folder in self.directory.iterdir():
                if folder.is_dir() and not (folder / MANIFEST).exists():
                    shutil.rmtree(folder, ignore_errors=True)

    def save(self, step: int, state, meta: dict, metrics: dict | None = None, prune: bool = True) -> None:
        """Copies the state and returns; a thread writes it. Errors of the last save are raised by the next, or `wait`.

        `prune` false leaves all older checkpoints where they are until the next save.
        """
        self.wait()
        snapshot = copied(state)
        self._writing = self._thread.submit(self._write, step, snapshot, dict(meta), dict(metrics or {}), prune)

    def _write(self, step: int, state, meta: dict, metrics: dict, prune: bool) -> None:
        folder = self.directory / str(step)
        if jax.process_index() == 0:
            shutil.rmtree(folder, ignore_errors=True)
        arrays = named(state)
        self._orbax.save(folder / ARRAYS, args=ocp.args.PyTreeSave(arrays))
        if jax.process_index() == 0:
            manifest = {
                "step": step,
                "meta": meta,
                "metrics": metrics,
                "arrays": {name: [list(x.shape), str(x.dtype)] for name, x in arrays.items()},
                "files": file_sizes(folder),
            }
            temporary = folder / f"{MANIFEST}.tmp"
            temporary.write_text(json.dumps(manifest))
            os.replace(temporary, folder / MANIFEST)
            if prune:
                self._prune()

    def _prune(self) -> None:
        steps = self.steps()
        keep = set(steps[-self.keep_last :])
        measured = [(self._manifest(step)["metrics"].get(self.best_metric), step) for step in steps]
        keep |= {step for _, step in sorted(m for m in measured if m[0] is not None)[: self.keep_best]}
        self._remove(set(steps) - keep)

    def _remove(self, steps: Iterable[int]) -> None:
        for step in steps:
            folder = self.directory / str(step)
            (folder / MANIFEST).unlink()  # first: a half-removed checkpoint is none
            shutil.rmtree(folder, ignore_errors=True)

    def drop_after(self, step: int) -> None:
        """Removes the checkpoints of later steps."""
        self.wait()
        if jax.process_index() == 0:
            self._remove([later for later in self.steps() if later > step])

    def wait(self) -> None:
        """Returns when the last save is on disk."""
        if self._writing is not None:
            writing, self._writing = self._writing, None
            writing.result()

    def close(self) -> None:
        """Waits, and ends the thread."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, ascending."""
        return complete_steps(self.directory)

    def latest_step(self) -> int | None:
        """The newest step with an undamaged checkpoint; damaged ones are named in a warning and passed over."""
        self.wait()
        return latest_step(self.directory)

    def meta(self) -> dict:
        """What was saved with the newest step; {} where there is none."""
        step = self.latest_step()
        return {} if step is None else self._manifest(step)["meta"]

    def _manifest(self, step: int) -> dict:
        return json.loads((self.directory / str(step) / MANIFEST).read_text())

    def restore(self, abstract, step: int | None = None) -> tuple[Any, dict]:
        """(state, meta) of a step, by default the newest; every array lands on the sharding that `abstract` gives it.

        Raises:
          FileNotFoundError: no checkpoint.
          ValueError: arrays that are missing, left over or of another shape, by name with both shapes.
        """
        step = self.latest_step() if step is None else step
        if step is None:
            raise FileNotFoundError(f"no checkpoint in {self.directory}")
        manifest = self._manifest(step)
        wanted = named(abstract)
        check_same(wanted, manifest["arrays"], f"checkpoint {self.directory / str(step)}")
        arrays = read(self.directory / str(step), wanted)
        leaves = [arrays[name] for name in wanted]
        return jax.tree.unflatten(jax.tree.structure(abstract), leaves), manifest["meta"]


def complete_steps(directory) -> list[int]:
    """Steps under a checkpoint directory that were written to the end, ascending."""
    found = Path(directory).glob(f"*/{MANIFEST}")
    return sorted(int(path.parent.name) for path in found if path.parent.name.isdigit())


def latest_step(directory) -> int | None:
    """The newest undamaged checkpoint under a directory; damaged ones are named in a warning and passed over."""
    for step in reversed(complete_steps(directory)):
        folder = Path(directory) / str(step)
        if (damage := damaged(folder)) is None:
            return step
        warnings.warn(f"checkpoint {folder} is damaged ({damage}); passing over it", stacklevel=2)
    return None


def file_sizes(folder: Path) -> dict[str, int]:
    """Size of every file below a folder, by its path there."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(MANIFEST))
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}


def damaged(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        expected = json.loads((folder / MANIFEST).read_text())["files"]
    except (ValueError, KeyError):
        return f"{MANIFEST} cannot be read"
    there = file_sizes(folder)
    for name, size in expected.items():
        if name not in there:
            return f"{name} is missing"
        if there[name] != size:
            return f"{name} has {there[name]} of {size} bytes"
    return None


def check_writable(directory: Path) -> None:
    """Makes the directory, and refuses one that cannot be written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / f".writable_{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise PermissionError(
            f"run_dir: {directory} cannot be written ({error.strerror}); choose a folder you may write, "
            "e.g. --gin.RUN_DIR=/tmp/run"
        ) from error


def check_same(wanted: dict[str, Any], stored: dict[str, list], where: str) -> None:
    """Refuses a checkpoint whose arrays are not those wanted, naming each with both shapes."""
    problems = [f"{name}: missing in the checkpoint" for name in wanted if name not in stored]
    problems += [f"{name}: in the checkpoint, not in the model" for name in stored if name not in wanted]
    problems += [
        f"{name}: shape {tuple(x.shape)} in the model, {tuple(stored[name][0])} in the checkpoint"
        for name, x in wanted.items()
        if name in stored and list(x.shape) != stored[name][0]
    ]
    if problems:
        shown = "\n  ".join(problems[:20]) + (f"\n  and {len(problems) - 20} more" if len(problems) > 20 else "")
        raise ValueError(
            f"{where} does not fit the model:\n  {shown}\nUse the run's own config.gin, another run_dir, "
            "or start from parts of it with trainer.train.initial"
        )


def read(folder: Path, wanted: dict[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
    """The named arrays of a checkpoint, each straight onto its sharding and in its dtype."""
    args = ocp.args.PyTreeRestore(
        wanted, restore_args=ocp.checkpoint_utils.construct_restore_args(wanted), partial_restore=True
    )
    return orbax().restore(folder / ARRAYS, args=args)


def check_data(meta: dict, fingerprint: str, directory) -> None:
    """Refuses to go on with other data, batch size or seed than the run began with."""
    if meta.get("data") != fingerprint:
        raise ValueError(
            f"the checkpoints in {directory} were trained on the data stream {meta.get('data')!r}, this run's is "
            f"{fingerprint!r}: the task, its tokenization, the lengths, batch_size or seed have changed. Give back the "
            "old ones (config.gin in the run directory has them), or take another run_dir and start from these "
            "parameters with trainer.train.initial"
        )


def restore_params(run_dir, abstract_params, step: int | None = None, keep_dtypes: bool = False) -> tuple[Any, int]:
    """(params, step) of a run for evaluation or inference; optimizer state is not read.

    Arrays come in the dtypes of `abstract_params`, or with `keep_dtypes` in those they are stored in.

    Raises:
      FileNotFoundError: the run has no checkpoint.
      ValueError: parameters that do not fit, by name.
    """
    directory = RunDir(run_dir).checkpoints.absolute()
    step = latest_step(directory) if step is None else step
    if step is None or step not in complete_steps(directory):
        raise FileNotFoundError(
            f"no checkpoint{'' if step is None else f' of step {step}'} in {directory}; train first"
        )
    folder = directory / str(step)
    wanted = named({"params": abstract_params})
    stored = json.loads((folder / MANIFEST).read_text())["arrays"]
    check_same(wanted, {name: x for name, x in stored.items() if name.startswith("params.")}, f"checkpoint {folder}")
    if keep_dtypes:
        wanted = {n: jax.ShapeDtypeStruct(x.shape, stored[n][1], sharding=x.sharding) for n, x in wanted.items()}
    arrays = read(folder, wanted)
    return jax.tree.unflatten(jax.tree.structure(abstract_params), [arrays[name] for name in wanted]), step


@dataclasses.dataclass(frozen=True)
class Initial:
    """Parameters that a fresh run starts from: those of another run whose path ("decoder.layer_0.mlp") is chosen.

    A parameter is taken when an expression of `include` is found in its path and none of `exclude` is; the others keep
    their fresh values. `step` is by default the newest.
    """

    run_dir: str
    include: Sequence[str] = (".*",)
    exclude: Sequence[str] = ()
    step: int | None = None

    def restore(self, params) -> tuple[Any, list[str], list[str]]:
        """(params, names taken, names left fresh), laid out as `params` are.

        Raises:
          FileNotFoundError: the run has no such checkpoint.
          ValueError: an expression found nowhere, or taken parameters that are missing or of another shape.
        """
        wanted = {f"params.{name}": x for name, x in named(params).items()}
        for pattern in (*self.include, *self.exclude):
            if not any(re.search(pattern, name) for name in wanted):
                raise ValueError(f"initial: {pattern!r} is found in no parameter's path, such as {next(iter(wanted))}")
        taken = {
            name: x
            for name, x in wanted.items()
            if any(re.search(p, name) for p in self.include) and not any(re.search(p, name) for p in self.exclude)
        }
        directory = RunDir(self.run_dir).checkpoints.absolute()
        step = latest_step(directory) if self.step is None else self.step
        if step is None or step not in complete_steps(directory):
            raise FileNotFoundError(f"initial: no checkpoint in {directory}")
        stored = json.loads((directory / str(step) / MANIFEST).read_text())["arrays"]
        check_same(taken, {name: x for name, x in stored.items() if name in taken}, f"initial: {directory / str(step)}")
        abstract = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for n, x in taken.items()}
        arrays = read(directory / str(step), abstract)
        leaves = [arrays.get(name, x) for name, x in wanted.items()]
        fresh = [name for name in wanted if name not in taken]
        return jax.tree.unflatten(jax.tree.structure(params), leaves), sorted(taken), fresh
