"""Every test runs on the CPU, as eight simulated devices; programs compiled once are kept for the rest of the session."""

import gc
import os
import tempfile

os.environ["JAX_PLATFORMS"] = "cpu"
# Eight devices to shard over; little optimisation, for nearly all of the time goes into compiling.
FLAGS = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}"
COMPILED = tempfile.TemporaryDirectory(prefix="t5x_like_compiled_")
os.environ["JAX_COMPILATION_CACHE_DIR"] = COMPILED.name
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"

import jax  # noqa: E402
import pytest  # noqa: E402

from tests import tiny_cache  # noqa: E402


@pytest.fixture(scope="session", autouse=True)
def collector():
    """The garbage collector, which took a tenth of the time, comes less often and does not walk through what was imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000)


@pytest.fixture(scope="module", autouse=True)
def compiled_programs():
    """Programs are forgotten after their file; all of them take gigabytes, and the garbage collector's time."""
    yield
    jax.clear_caches()


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory):
    """A cache folder with the tasks of tests/tiny_cache.py."""
    root = tmp_path_factory.mktemp("caches")
    tiny_cache.write_all(root)
    return root
