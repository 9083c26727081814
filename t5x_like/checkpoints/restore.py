"""Parameters of a run, for evaluation, inference, or as the start of another run."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax

from t5x_like.checkpoints import folder as files
from t5x_like.checkpoints import frozen, verify
from t5x_like.parameters import ADDED
from t5x_like.run_dir import RunDir
from t5x_like.types import Params, PathLike

Result = TypeVar("Result")


def read_step(
    run_dir: PathLike, step: int | None, read: Callable[[Path], Result], argument: str = "", with_checksums: bool = True
) -> tuple[Result, Path]:
    """(what `read` returns, folder) of the checkpoint of a step, by default the newest undamaged one.

    Raises:
      FileNotFoundError: no such checkpoint; the message starts with `argument`.
      DamagedCheckpointError: it is damaged, or all are.
    """
    directory = RunDir(run_dir).checkpoints.absolute()
    steps = files.complete_steps(directory)
    if not steps or (step is not None and step not in steps):
        which = "" if step is None else f" of step {step}"
        raise FileNotFoundError(f"{argument}no checkpoint{which} in {directory}; train first")
    if step is None:
        return verify.read_newest(directory, read, with_checksums)
    return verify.read_checked(directory / str(step), read, with_checksums), directory / str(step)


def restore_params(
    run_dir: PathLike, abstract_params: Params, step: int | None = None, keep_dtypes: bool = False
) -> tuple[Params, int]:
    """(params, step) of a run that trained its model's own parameters, frozen ones included; see `restore_parts`."""
    params, _, step = restore_parts(run_dir, abstract_params, {}, step, keep_dtypes)
    return params, step


def restore_parts(
    run_dir: PathLike,
    abstract_params: Params,
    abstract_frozen: Params,
    step: int | None = None,
    keep_dtypes: bool = False,
) -> tuple[Params, Params, int]:
    """(trained parameters, frozen ones, step) of a run; the optimizer state is not read.

    Arrays have the shardings and dtypes of `abstract_params`, or with `keep_dtypes` the stored dtypes. By default `step` is
    the newest undamaged one.

    Raises:
      FileNotFoundError: the run has no checkpoint. DamagedCheckpointError: it is damaged.
      ValueError: parameters that do not fit, by name.
    """
    trees = abstract_params, abstract_frozen
    names = [files.leaves_by_name({"params": tree}) for tree in trees]
    wanted = names[0] | names[1]

    def read(folder: Path) -> dict[str, jax.Array]:
        places = frozen.locate(folder)
        check_added(wanted, places, f"checkpoint {folder}")
        files.check_same(wanted, {name: stored for name, (_, stored) in places.items()}, f"checkpoint {folder}")
        target = {
            name: jax.ShapeDtypeStruct(x.shape, places[name][1][1] if keep_dtypes else x.dtype, sharding=x.sharding)
            for name, x in wanted.items()
        }
        return frozen.read(places, target, f"checkpoint {folder}")

    arrays, folder = read_step(run_dir, step, read)
    params, fixed = (
        jax.tree.unflatten(jax.tree.structure(tree), [arrays[name] for name in own])
        for tree, own in zip(trees, names, strict=True)
    )
    return params, fixed, int(folder.name)


def restore_base(run_dir: PathLike, abstract: Params, step: int | None = None) -> Params | None:
    """The model's parameters before a run tuned some of them, in their stored dtypes; None if their source has not all.

    Raises:
      FileNotFoundError, ValueError: the run has no frozen parameters, or their source is missing or has changed.
    """
    wanted = files.leaves_by_name({"params": abstract})

    def read(folder: Path) -> dict[str, jax.Array] | None:
        record = files.manifest(folder)["meta"].get("frozen")
        if record is None:
            raise ValueError(
                f"{run_dir} trained all parameters of its model: it has no adapter; export it without --adapter"
            )
        places = frozen.locate(frozen.source_of(run_dir, record))
        if set(wanted) - set(places):
            return None
        target = {
            name: jax.ShapeDtypeStruct(x.shape, places[name][1][1], sharding=x.sharding) for name, x in wanted.items()
        }
        return frozen.read(places, target, f"frozen parameters of {run_dir}")

    arrays, _ = read_step(run_dir, step, read)
    return (
        None if arrays is None else jax.tree.unflatten(jax.tree.structure(abstract), [arrays[name] for name in wanted])
    )


def check_added(wanted: Mapping[str, Any], stored: Mapping[str, Any], where: str) -> None:
    """Checks that nothing which a run added to its model's parameters is left out.

    Raises:
      ValueError: the checkpoint has such parameters, and they are not wanted.
    """
    if added := [name for name in stored if ADDED in name and name not in wanted]:
        raise ValueError(
            f"{where} has {len(added)} arrays that its transform added to the model's parameters, such as {added[0]}; "
            "use the same transform, or write the model's parameters with `t5x_like merge RUN_DIR --out=FOLDER` and use FOLDER"
        )


def added_names(trained: Params) -> dict[str, Any]:
    """{name in a checkpoint: leaf} of what a transform added, among trained parameters."""
    return {f"params.{name}": x for name, x in files.leaves_by_name(trained).items() if ADDED in name}


def shapes_of(arrays: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """The abstract arrays by name, laid out as these are."""
    return {name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding) for name, x in arrays.items()}


@dataclasses.dataclass(frozen=True)
class InitializeFrom:
    """Parameters of another run that a new run starts from, chosen by path ("decoder.layer_0.mlp").

    A parameter is restored if its path matches an expression of `include` and none of `exclude`; the others keep their
    fresh values. `step` is by default the newest undamaged one.
    """

    run_dir: str
    include: Sequence[str] = (".*",)
    exclude: Sequence[str] = ()
    step: int | None = None

    def restore(self, params: Params, added: Params | None = None) -> tuple[Params, list[str], list[str], Path]:
        """(params, names restored, names left fresh, checkpoint folder); the params are laid out as `params` are.

        `added` is what the new run's transform adds to them: see `restore_added`. A checkpoint with anything else of that kind
        is refused.

        Raises:
          FileNotFoundError: the run has no such checkpoint. DamagedCheckpointError: it is damaged.
          ValueError: an expression that matches nothing, or parameters that are missing or of another shape.
        """
        current = {f"params.{name}": x for name, x in files.leaves_by_name(params).items()}
        selected = self._choose(current)
        abstract, own = shapes_of(selected), added_names(added or {})

        def read(folder: Path) -> dict[str, jax.Array]:
            places = frozen.locate(folder)
            check_added(abstract | own, places, f"initialize_from: {folder}")
            return frozen.read(places, abstract, f"initialize_from: {folder}")

        arrays, folder = read_step(self.run_dir, self.step, read, "initialize_from: ")
        leaves = [arrays.get(name, x) for name, x in current.items()]
        fresh = [name for name in current if name not in selected]
        return jax.tree.unflatten(jax.tree.structure(params), leaves), sorted(selected), fresh, folder

    def restore_added(self, trained: Params) -> tuple[Params, list[str]]:
        """(trained, names restored): what a run with the same transform had added to its model; nothing if it had no such.

        Raises:
          FileNotFoundError, DamagedCheckpointError: as `restore`. ValueError: some are missing or of another shape.
        """
        wanted = added_names(trained)

        def read(folder: Path) -> dict[str, jax.Array]:
            places = frozen.locate(folder)
            found = any(ADDED in name for name in places)
            return frozen.read(places, shapes_of(wanted), f"initialize_from: {folder}") if found else {}

        arrays, _ = read_step(self.run_dir, self.step, read, "initialize_from: ")
        leaves = [arrays.get(f"params.{name}", x) for name, x in files.leaves_by_name(trained).items()]
        return jax.tree.unflatten(jax.tree.structure(trained), leaves), sorted(arrays)

    def check(self, params: Params) -> None:
        """Checks that the checkpoint has the chosen ones of `params`, whose shapes are enough. No array is read.

        Raises:
          FileNotFoundError, DamagedCheckpointError, ValueError: as `restore`.
        """
        selected = self._choose({f"params.{name}": x for name, x in files.leaves_by_name(params).items()})

        def compare(folder: Path) -> None:
            places = frozen.locate(folder)
            check_added(selected, places, f"initialize_from: {folder}")
            stored = {name: stored for name, (_, stored) in places.items() if name in selected}
            files.check_same(selected, stored, f"initialize_from: {folder}")

        read_step(self.run_dir, self.step, compare, "initialize_from: ", with_checksums=False)

    def _choose(self, current: dict[str, Any]) -> dict[str, Any]:
        """The parameters, by path, that are restored. Raises ValueError for an expression that matches nothing."""
        for pattern in (*self.include, *self.exclude):
            if not any(re.search(pattern, name) for name in current):
                raise ValueError(
                    f"initialize_from: {pattern!r} is found in no parameter's path, such as {next(iter(current))}"
                )
        return {name: x for name, x in current.items() if self._selects(name)}

    def _selects(self, name: str) -> bool:
        return any(re.search(p, name) for p in self.include) and not any(re.search(p, name) for p in self.exclude)
