"""The dtypes that parameters are stored and used in."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Precision:
    """Parameters are kept in `param_dtype` and used in `compute_dtype`, save those whose path matches `keep`."""

    param_dtype: Any = jnp.float32
    compute_dtype: Any = jnp.float32
    keep: str = r"(router|norm)"

    def to_param_dtype(self, params):
        """Floating parameters in the dtype they are kept in."""
        return jax.tree.map(lambda x: x.astype(self.param_dtype), params)

    def to_compute_dtype(self, params):
        """Floating parameters in the dtype the model computes in; gradients flow back to the kept ones."""

        def cast(path, x):
            kept = re.search(self.keep, jax.tree_util.keystr(path))
            return x if kept else x.astype(self.compute_dtype)

        return jax.tree_util.tree_map_with_path(cast, params)
