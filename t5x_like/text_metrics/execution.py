"""Scores programs by running their tests: HumanEval's pass@k (Chen et al. 2021), each program in a process with limits.

The limits stop endless loops and excessive memory and files, not attacks: run it only in an isolated environment.
"""

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence

from t5x_like.text_metrics.pairs import check_pairs
from t5x_like.text_metrics.sampling import pass_at_k

ALLOW = "T5X_LIKE_ALLOW_EXECUTION"

# Reads limits and program from stdin; prints the password only if the program finishes.
RUNNER = """
import resource, sys
seconds, megabytes, password, program = sys.stdin.read().split("\\n", 3)
for limit, value in (
    (resource.RLIMIT_CPU, int(float(seconds)) + 1),
    (resource.RLIMIT_AS, int(megabytes) * 2**20),
    (resource.RLIMIT_FSIZE, 2**20),
    (resource.RLIMIT_CORE, 0),
):
    resource.setrlimit(limit, (value, value))
exec(compile(program, "program", "exec"), {"__name__": "__main__"})
sys.__stdout__.write("\\n" + password)
"""


def run_program(program: str, seconds: float = 3.0, megabytes: int = 1024) -> bool:
    """Executes a Python program; returns whether it finishes without an error within `seconds` and `megabytes`."""
    password = secrets.token_hex(16)
    stdin = f"{seconds}\n{megabytes}\n{password}\n{program}"
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-I", "-c", RUNNER],
            cwd=folder,
            env={"PATH": os.defpath, "HOME": folder, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            process.communicate(stdin.encode("utf-8", "replace"), timeout=seconds)
        except subprocess.TimeoutExpired:
            return False
        finally:
            # Also kills children of the program, which are in its session.
            kill_session(process)
        output.seek(max(0, output.seek(0, os.SEEK_END) - len(password)))
        return output.read() == password.encode()


def kill_session(process: subprocess.Popen) -> None:
    """Kills a process and its children."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def passes_tests(problem: Mapping, completion: str, seconds: float = 3.0, megabytes: int = 1024) -> bool:
    """Whether prompt and completion together pass the problem's `test` of its `entry_point`."""
    tests = f"{problem['test']}\ncheck({problem['entry_point']})"
    return run_program(f"{problem['prompt']}{completion}\n\n{tests}\n", seconds, megabytes)


def human_eval(
    targets: Sequence[Mapping],
    predictions: Sequence,
    k: int | Sequence[int] = 1,
    allow_execution: bool | None = None,
    seconds: float = 3.0,
    megabytes: int = 1024,
) -> dict[str, float]:
    """`pass@k` in percent. A target is a problem (`prompt`, `test`, `entry_point`), a prediction one completion or several.

    Raises:
      PermissionError: neither `allow_execution` nor $T5X_LIKE_ALLOW_EXECUTION=1 allows it.
    """
    allowed = os.environ.get(ALLOW) == "1" if allow_execution is None else allow_execution
    if not allowed:
        raise PermissionError(
            f"allow_execution={allow_execution}: human_eval runs programs written by a model, which may do anything; in an "
            f"isolated environment give allow_execution=True or set {ALLOW}=1"
        )
    targets, predictions = check_pairs(targets, predictions)
    samples = [[one] if isinstance(one, str) else list(one) for one in predictions]

    def passes(problem: Mapping, completion: str) -> bool:
        return passes_tests(problem, completion, seconds, megabytes)

    return pass_at_k(targets, samples, k, passes)
