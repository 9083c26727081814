"""Opens trained models of any kind: run directories, folders of Hugging Face and GGUF files.

engine = t5x_like.Engine.from_run("runs/quickstart")
print(engine.complete("def ").text)
"""

from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from t5x_like import partitioning, types
from t5x_like.cli import setup
from t5x_like.cli.hf import from_folder, from_gguf
from t5x_like.run_dir import RunDir
from t5x_like.serving import engine
from t5x_like.serving.options import DEFAULT, Options


class Engine(engine.Engine):
    """`serving.engine.Engine`, which can open the model itself."""

    @classmethod
    def from_run(
        cls,
        source: types.PathLike,
        options: Options = DEFAULT,
        step: int | None = None,
        mesh: Mesh | None = None,
        dtype: Any = None,
    ) -> "Engine":
        """Opens a run directory, a folder with config.json and safetensors, or a .gguf file.

        Args:
          source: the directory or file.
          options: the sizes of the engine.
          step: the checkpoint of a run directory; None is the newest.
          mesh: where the parameters are; None is the run's own mesh, or one of all devices.
          dtype: of the parameters, in which the model computes; None is the run's precision, or float32.

        Raises:
          FileNotFoundError: there is no such model, or it has no tokenizer.
          ValueError: the model has no decoder, or cannot be opened for a reason that the message gives.
        """
        opened = open_model(source, step, mesh, dtype)
        return cls(opened.model, opened.params, opened.vocabulary, options, opened.mesh, opened.rules)


class Opened(NamedTuple):
    """A model that was opened, with what it needs to run."""

    model: types.Model
    params: types.Params
    vocabulary: types.Vocabulary
    mesh: Mesh
    rules: partitioning.Rules


def open_model(source: types.PathLike, step: int | None = None, mesh: Mesh | None = None, dtype: Any = None) -> Opened:
    """Opens a model of any kind; see `Engine.from_run`.

    Raises:
      FileNotFoundError: there is no such model, or it has no tokenizer.
      ValueError: it cannot be opened.
    """
    folder = Path(source).expanduser()
    if RunDir(folder).newest_config.exists():
        run = setup.TrainedRun(str(folder), step=step, mesh=mesh)
        params = run.params(run.example_batch())
        params = params if dtype is None else jax.tree.map(lambda x: x.astype(dtype), params)
        return Opened(run.model, params, run.require_vocabulary(), run.mesh, run.rules)
    if not folder.exists():
        raise FileNotFoundError(
            f"{source} does not exist; give a run directory, a folder with config.json, or a .gguf file"
        )
    mesh, read = mesh or partitioning.make_mesh(), from_gguf if folder.is_file() else from_folder
    model, params, _, vocabulary = read(folder, {"mesh": mesh, "dtype": dtype or jnp.float32})
    if vocabulary is None:
        raise FileNotFoundError(
            f"{source} has no tokenizer; put tokenizer.json or a SentencePiece model next to config.json"
        )
    return Opened(model, params, vocabulary, mesh, partitioning.RULES)
