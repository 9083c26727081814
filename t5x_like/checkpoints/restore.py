"""Parameters of a run, for evaluation, inference, or as the start of another run."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from t5x_like.checkpoints import folder as files
from t5x_like.checkpoints import frozen
from t5x_like.run_dir import RunDir
from t5x_like.types import Params, PathLike


def check_data(meta: dict, fingerprint: str, directory: PathLike) -> None:
    """Checks that a run resumes with the data stream that it started with.

    Raises:
      ValueError: another task, tokenization, length, batch size or seed.
    """
    if meta.get("data") != fingerprint:
        raise ValueError(
            f"the checkpoints in {directory} were trained on the data stream {meta.get('data')!r}, this run's is "
            f"{fingerprint!r}: the task, its tokenization, the lengths, batch_size or seed have changed. Set them back "
            "(config.gin in the run directory has the old values), or use another run_dir and start from these "
            "parameters with trainer.train.initialize_from"
        )


def checkpoint_of(run_dir: PathLike, step: int | None, argument: str = "") -> Path:
    """The checkpoint folder of a step, by default the newest.

    Raises:
      FileNotFoundError: no such checkpoint; the message starts with `argument`.
    """
    directory = RunDir(run_dir).checkpoints.absolute()
    newest = files.latest_step(directory) if step is None else step
    if newest is None or newest not in files.complete_steps(directory):
        which = "" if step is None else f" of step {step}"
        raise FileNotFoundError(f"{argument}no checkpoint{which} in {directory}; train first")
    return directory / str(newest)


def restore_params(
    run_dir: PathLike, abstract_params: Params, step: int | None = None, keep_dtypes: bool = False
) -> tuple[Params, int]:
    """(params, step) of a run, frozen ones included; the optimizer state is not read.

    Arrays have the shardings and dtypes of `abstract_params`, or with `keep_dtypes` the stored dtypes.

    Raises:
      FileNotFoundError: the run has no checkpoint.
      ValueError: parameters that do not fit, by name.
    """
    folder = checkpoint_of(run_dir, step)
    wanted, places = files.leaves_by_name({"params": abstract_params}), frozen.locate(folder)
    files.check_same(wanted, {name: stored for name, (_, stored) in places.items()}, f"checkpoint {folder}")
    if keep_dtypes:
        wanted = {n: jax.ShapeDtypeStruct(x.shape, places[n][1][1], sharding=x.sharding) for n, x in wanted.items()}
    arrays = frozen.read(places, wanted, f"checkpoint {folder}")
    leaves = [arrays[name] for name in wanted]
    return jax.tree.unflatten(jax.tree.structure(abstract_params), leaves), int(folder.name)


@dataclasses.dataclass(frozen=True)
class InitializeFrom:
    """Parameters of another run that a new run starts from, chosen by path ("decoder.layer_0.mlp").

    A parameter is restored if its path matches an expression of `include` and none of `exclude`; the others keep their
    fresh values. `step` is by default the newest.
    """

    run_dir: str
    include: Sequence[str] = (".*",)
    exclude: Sequence[str] = ()
    step: int | None = None

    @property
    def folder(self) -> Path:
        """The checkpoint folder. Raises FileNotFoundError: the run has no such checkpoint."""
        return checkpoint_of(self.run_dir, self.step, "initialize_from: ")

    def restore(self, params: Params) -> tuple[Params, list[str], list[str]]:
        """(params, names restored, names left fresh), laid out as `params` are.

        Raises:
          FileNotFoundError: the run has no such checkpoint.
          ValueError: an expression that matches nothing, or parameters that are missing or of another shape.
        """
        current = {f"params.{name}": x for name, x in files.leaves_by_name(params).items()}
        for pattern in (*self.include, *self.exclude):
            if not any(re.search(pattern, name) for name in current):
                raise ValueError(
                    f"initialize_from: {pattern!r} is found in no parameter's path, such as {next(iter(current))}"
                )
        selected = {name: x for name, x in current.items() if self._selects(name)}
        folder = self.folder
        abstract: dict[str, Any] = {
            n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for n, x in selected.items()
        }
        arrays = frozen.read(frozen.locate(folder), abstract, f"initialize_from: {folder}")
        leaves = [arrays.get(name, x) for name, x in current.items()]
        fresh = [name for name in current if name not in selected]
        return jax.tree.unflatten(jax.tree.structure(params), leaves), sorted(selected), fresh

    def _selects(self, name: str) -> bool:
        return any(re.search(p, name) for p in self.include) and not any(re.search(p, name) for p in self.exclude)
