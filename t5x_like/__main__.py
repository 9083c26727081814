"""`python -m t5x_like` is the command `t5x_like`."""

import os
import sys

from t5x_like.cli.main import main

# The buffers of a training step are freed at its end; glibc gives them back to the system, which clears them anew for the next
# step, 4 KB at a time. Kept, and in pages of 2 MB, they make the steps of small models on a CPU 1.4 times as fast
# (benchmarks/allocator.py). glibc reads this as a process starts; elsewhere it has no effect.
TUNABLES = "glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=4000000000:glibc.malloc.mmap_max=0"


def start() -> int:
    """Runs the command, in a process that keeps its memory; GLIBC_TUNABLES of one's own, '' too, are left as they are."""
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    return main()


if __name__ == "__main__":
    sys.exit(start())
