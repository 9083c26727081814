"""Every family's tiny model on this device, in float32 and bfloat16: difference from the reference's logits, and the kernel used.

The logits are those of the tests' fixtures. Differences are root mean squares, relative to that of the logits. The script fails
if a difference exceeds its tolerance.
"""

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import report
from t5x_like import hf
from t5x_like.models import kernels
from t5x_like.types import Model, Params
from tests.hf import folders

TOLERANCES = {"float32": 1e-4, "bfloat16": 0.12}


def run_model(model: Model, params: Params, batch: Mapping[str, Any]) -> tuple[np.ndarray, str]:
    """Returns (logits, the names of the attention kernels that were used)."""
    names, select = set(), kernels.select

    def record(*arguments: Any) -> Callable:
        kernel = select(*arguments)
        names.add(kernel.__name__)
        return kernel

    kernels.select = record
    try:
        logits = jax.jit(model.apply)({"params": params}, batch)
    finally:
        kernels.select = select
    return np.asarray(logits.astype(jnp.float32)), " ".join(sorted(names))


def compare(name: str, dtype: str) -> tuple[float, str]:
    """Returns (relative difference at real positions, kernels) of one fixture."""
    model, params = hf.load(folders.FIXTURES / name, dtype=jnp.dtype(dtype))
    want = folders.expected(name)
    sides = tuple(side for side in ("encoder", "decoder") if hasattr(model, side))
    batch = folders.batch(want, sides)
    real = batch[f"{sides[-1]}_segment_ids"] > 0
    logits = want.get("row_logits", want.get("logits", want.get("hidden")))
    got, names = run_model(model, params, batch)
    got = got[..., 0] if logits.ndim == 2 else got
    return float(np.linalg.norm((got[: len(real)] - logits)[real]) / np.linalg.norm(logits[real])), names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=folders.NAMES)
    args = parser.parse_args()
    jax.config.update("jax_default_matmul_precision", "highest")
    rows, worst = {}, dict.fromkeys(TOLERANCES, 0.0)
    for name in args.names:
        row: dict[str, float | str] = {}
        for dtype in TOLERANCES:
            row[dtype], row[f"kernel, {dtype}"] = compare(name, dtype)
            worst[dtype] = max(worst[dtype], row[dtype])
        rows[name] = row
    report.print_table("difference from the reference's logits, relative", rows)
    report.print_json(**worst)
    if any(worst[dtype] > tolerance for dtype, tolerance in TOLERANCES.items()):
        sys.exit(f"beyond the tolerances {TOLERANCES}")


if __name__ == "__main__":
    main()
