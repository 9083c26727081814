"""Double precision on the host inside a `with` block; the rest of the process keeps float32 and its accelerator.

Fits need float64, which TPUs lack and most GPUs run slowly; and a fit beside a training run must not occupy its device.
"""

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def on_host() -> Iterator[None]:
    """Enables float64 on the first CPU device of this process; on the default device if JAX_PLATFORMS excludes the CPU."""
    try:
        device = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        device = None
    with jax.enable_x64(True), jax.default_device(device):
        yield
