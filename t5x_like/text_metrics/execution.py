"""Scores programs by running their tests: HumanEval's pass@k (Chen et al. 2021).

A program runs in a process of its own that has neither the tests nor the verdict; see `t5x_like.sandbox`. What of the machine it
can reach depends on the system: `protections()` says it.
"""

import functools
import os
import sys
from collections.abc import Mapping, Sequence

from t5x_like.sandbox import runner
from t5x_like.text_metrics.pairs import check_pairs
from t5x_like.text_metrics.sampling import pass_at_k

ALLOW = "T5X_LIKE_ALLOW_EXECUTION"


def protections() -> dict[str, bool]:
    """What protects this machine from programs: {protection: whether it is active here}.

    Raises:
      StartError: programs do not run here at all.
    """
    return runner.protections()


def prepare(allow_execution: bool | None = None) -> None:
    """Checks the consent to run programs, and prints once which protections are active; to be called before long work.

    Raises:
      PermissionError: neither `allow_execution` nor $T5X_LIKE_ALLOW_EXECUTION=1 allows it.
      StartError: programs do not run here at all.
    """
    allowed = os.environ.get(ALLOW) == "1" if allow_execution is None else allow_execution
    if not allowed:
        raise PermissionError(
            f"allow_execution={allow_execution}: a metric runs programs written by a model, which may do anything; in an "
            f"isolated environment give allow_execution=True or set {ALLOW}=1"
        )
    announce_protections()


@functools.cache
def announce_protections() -> None:
    """Prints the active protections to stderr, once."""
    found = protections()
    active, missing = (
        ", ".join(name for name, is_active in found.items() if is_active == wanted) for wanted in (True, False)
    )
    remedy = f"; not active: {missing}; use a container or a virtual machine" if missing else ""
    print(f"programs written by a model run with: {active}{remedy}", file=sys.stderr, flush=True)


def passes_tests(problem: Mapping, completion: str, seconds: float = 3.0, megabytes: int = 1024) -> bool:
    """Whether prompt and completion together pass the problem's `test` of its `entry_point`.

    The tests call the function in the program's process. Arguments and results are data of builtin types (see
    `t5x_like.sandbox.values`); a program that returns anything else, such as an object or a function, fails. Changes of
    arguments and builtin exceptions reach the tests.

    Raises:
      StartError: programs do not run here at all.
    """
    return runner.passes_tests(problem, completion, seconds, megabytes, runner.has_namespaces())


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
      PermissionError, StartError: see `prepare`.
    """
    prepare(allow_execution)
    targets, predictions = check_pairs(targets, predictions)
    samples = [[one] if isinstance(one, str) else list(one) for one in predictions]

    def passes(problem: Mapping, completion: str) -> bool:
        return passes_tests(problem, completion, seconds, megabytes)

    return pass_at_k(targets, samples, k, passes)
