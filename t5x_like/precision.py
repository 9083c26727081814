"""The dtypes that parameters are stored and used in."""

import dataclasses
import re
from typing import Any

import jax
import jax.numpy as jnp

from t5x_like.models.nf4 import Nf4
from t5x_like.types import Params


@dataclasses.dataclass(frozen=True)
class Precision:
    """Parameters are stored in `param_dtype` and used in `compute_dtype`, except those whose path matches `keep`."""

    param_dtype: Any = jnp.float32
    compute_dtype: Any = jnp.float32
    keep: str = r"(router|norm)"

    def to_param_dtype(self, params: Params) -> Params:
        """Parameters in the dtype they are stored in."""
        return jax.tree.map(lambda x: cast(x, self.param_dtype), params)

    def to_compute_dtype(self, params: Params) -> Params:
        """Parameters in the dtype the model computes in; gradients flow back to the stored ones."""

        def cast_unless_kept(path: Any, x: Any) -> Any:
            if isinstance(x, Nf4):  # whose scales stay in float32
                return x.replace(dtype=jnp.dtype(self.compute_dtype))
            return x if re.search(self.keep, jax.tree_util.keystr(path)) else cast(x, self.compute_dtype)

        return jax.tree_util.tree_map_with_path(cast_unless_kept, params, is_leaf=lambda x: isinstance(x, Nf4))


def cast(x: Any, dtype: Any) -> Any:
    """`x` in `dtype` if it is floating; integers (quantized values) stay as they are."""
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
