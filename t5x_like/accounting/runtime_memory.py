"""Memory of the host: whether a traced function fits, as Linux kills a process that takes more, and returning what is free."""

import ctypes
import math
import sys
from pathlib import Path
from typing import Any

from jax.extend import core

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def largest_product(jaxpr: core.Jaxpr) -> int:
    """Bytes of the largest result of a matrix product in a program, also inside its loops and branches."""
    sizes = [0]
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            result: Any = equation.outvars[0].aval
            sizes.append(math.prod(result.shape) * result.dtype.itemsize)
        sizes += [largest_product(inner) for inner in core.jaxprs_in_params(equation.params)]
    return max(sizes)


def free_bytes() -> int | None:
    """Bytes of memory that this process can still take, by the system and its control group; None if unknown."""
    limits = []
    if MEMINFO.exists():
        fields = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
        if "MemAvailable" in fields:
            limits.append(int(fields["MemAvailable"].split()[0]) * 1024)
    limit, used = (CGROUP / name for name in ("memory.max", "memory.current"))
    if limit.exists() and (most := limit.read_text().strip()).isdecimal():
        limits.append(int(most) - int(used.read_text()))
    return min(limits, default=None)


def check_fits(product: int) -> None:
    """Checks that a product of this many bytes and a copy of it fit into the free memory: attention's scores and softmax.

    Raises:
      MemoryError: they do not.
    """
    check_free(2 * product, "a product of matrices")


def check_free(needed: int, what: str) -> None:
    """Raises MemoryError if `what` needs more bytes of memory than are free."""
    free = free_bytes()
    if free is not None and needed > free:
        raise MemoryError(f"{what} needs {needed:,} bytes of memory, {free:,} are free")


def return_free_pages() -> None:
    """Returns the pages that malloc keeps without a use to the system, such as those of compilations; glibc only."""
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)
