"""Runs `t5x_like` as `python -m t5x_like`."""

import os
import sys

# By default glibc returns the buffers of a training step to the system, which clears them again for the next step, 4 KB at a
# time. Keeping the buffers, in pages of 2 MB, makes training steps on a CPU faster (benchmarks/allocator.py). One arena for all
# threads: in any but the first, glibc returns large buffers whatever the other settings are, and XLA allocates in threads of its
# own. glibc reads the setting when a process starts; other C libraries ignore it.
TUNABLES = (
    "glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=4000000000:glibc.malloc.mmap_max=0:glibc.malloc.arena_max=1"
)


def start() -> int:
    """Runs the program with TUNABLES, unless GLIBC_TUNABLES is already set, also to ''."""
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    from t5x_like.cli.main import main  # after the restart, so that it is imported once

    return main()


if __name__ == "__main__":
    sys.exit(start())
