"""Parameter trees that an objective needs besides the model's: a reference model, a teacher, a reward model."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from t5x_like import checkpoints, parameters, partitioning
from t5x_like.precision import Precision
from t5x_like.types import Model, Objective, Params


@dataclasses.dataclass(frozen=True)
class FromRun:
    """The parameters of a run, by default of its newest step. `model` None: they belong to the model that is trained."""

    run_dir: str
    step: int | None = None
    model: Model | None = None

    def load(
        self, model: Model, batch: Mapping[str, Any], mesh: Mesh, rules: partitioning.Rules, precision: Precision
    ) -> Params:
        """The parameters in their compute dtype, laid out on the mesh; `batch` has the model's inputs.

        Raises:
          FileNotFoundError: the run has no such checkpoint. ValueError: parameters that do not fit the model.
        """
        boxed = parameters.init_abstract(self.model or model, batch, mesh, rules, precision)
        abstract = parameters.abstract(boxed, partitioning.shardings(boxed, mesh, rules))
        params, _ = checkpoints.restore_params(self.run_dir, abstract, self.step)
        return precision.to_compute_dtype(params)


def load(
    objective: Objective,
    model: Model,
    batch: Mapping[str, Any],
    mesh: Mesh,
    rules: partitioning.Rules,
    precision: Precision,
) -> dict[str, Params]:
    """The trees that an objective declares in its field `references`, {name: FromRun}; {} if it declares none."""
    declared: Mapping[str, FromRun] = getattr(objective, "references", {})
    return {name: source.load(model, batch, mesh, rules, precision) for name, source in declared.items()}
