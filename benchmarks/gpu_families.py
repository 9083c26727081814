"""Every family's tiny model on this device, in float32 and bfloat16: how far from the reference's logits, with which kernel.

The logits are those that the tests' fixtures hold. Differences are root mean squares, relative to that of the logits; a device
in order stays under the tolerances, and the script fails otherwise.
"""

import argparse
import sys

import jax
import jax.numpy as jnp
import numpy as np

import report
from t5x_like import hf
from t5x_like.models import kernels
from tests.hf import folders

TOLERANCES = {"float32": 1e-4, "bfloat16": 0.12}


def kernels_of(model, params, batch) -> tuple[np.ndarray, str]:
    """(logits, the names of the attention kernels that were chosen)."""
    names, chosen = set(), kernels.select

    def noted(*arguments):
        kernel = chosen(*arguments)
        names.add(kernel.__name__)
        return kernel

    kernels.select = noted
    try:
        logits = jax.jit(model.apply)({"params": params}, batch)
    finally:
        kernels.select = chosen
    return np.asarray(logits.astype(jnp.float32)), " ".join(sorted(names))


def measured(name: str, dtype: str) -> tuple[float, str]:
    """(relative difference at real positions, kernels) of one fixture."""
    model, params = hf.load(folders.FIXTURES / name, dtype=jnp.dtype(dtype))
    want = folders.expected(name)
    sides = tuple(side for side in ("encoder", "decoder") if hasattr(model, side))
    batch = folders.batch(want, sides)
    real = batch[f"{sides[-1]}_segment_ids"] > 0
    logits = want.get("row_logits", want.get("logits", want.get("hidden")))
    got, names = kernels_of(model, params, batch)
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
            row[dtype], row[f"kernel, {dtype}"] = measured(name, dtype)
            worst[dtype] = max(worst[dtype], row[dtype])
        rows[name] = row
    report.print_table("difference from the reference's logits, relative", rows)
    report.print_json(**worst)
    if any(worst[dtype] > tolerance for dtype, tolerance in TOLERANCES.items()):
        sys.exit(f"beyond the tolerances {TOLERANCES}")


if __name__ == "__main__":
    main()
