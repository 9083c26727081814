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
        return jax.tree.map(lambda x: cast(x, self.param_dtype), params)

    def to_compute_dtype(self, params):
        """Floating parameters in the dtype the model computes in; gradients flow back to the kept ones."""

        def cast_unless_kept(path, x):
            kept = re.search(self.keep, jax.tree_util.keystr(path))
            return x if kept else cast(x, self.compute_dtype)

        return jax.tree_util.tree_map_with_path(cast_unless_kept, params)


def cast(x, dtype):
    """`x` in `dtype` if it is floating; integers (quantized values) stay as they are."""
    return x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x
