"""Another process that holds a lock."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HOLD = (
    "import sys; from t5x_like import locks\nwith locks.hold(sys.argv[1], 'a test'): print('held', flush=True); input()"
)


@contextlib.contextmanager
def by_another_process(path: Path) -> Iterator[subprocess.Popen]:
    """Holds a lock in a process that ends when the block does."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, path], env=environment, **pipes) as process:
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()
