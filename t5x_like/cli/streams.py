"""Commands that read records and append results to a file: locks, resuming, failed records, output as JSON."""

import collections
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from t5x_like import interrupts, locks
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.files import lines
from t5x_like.types import PathLike

SHOWN = 20  # errors that are printed; all are in the output
START = 60  # characters of a text in a message

Records = Iterator[dict[str, Any]]


@contextlib.contextmanager
def hold_output(output: str | None) -> Iterator[None]:
    """Keeps other processes from appending to the same output file, and tells who interrupts what is in it.

    The first of several processes holds the file's lock.
    """
    import jax

    kept = f"stopped; the finished results are in {output}, and the same command continues" if output else ""
    with contextlib.ExitStack() as stack:
        if output is not None and jax.process_index() == 0:
            stack.enter_context(locks.hold(locks.beside(output), f"--output={output}"))
        stack.enter_context(interrupts.explain(kept))
        yield


def open_output(path: str | None) -> contextlib.AbstractContextManager[IO[str]]:
    """The stream of results: the output file or standard output; of several processes only the first writes them."""
    import jax

    if jax.process_index() != 0:
        return open(os.devnull, "w")
    return contextlib.nullcontext(sys.stdout) if path is None else lines.open_append(path)


def make_rereader(path: str | None, read: Callable[[], Records]) -> Callable[[], Records]:
    """Returns `read`, which reads the file `path` anew in each call; what is no file, such as a pipe, is read once."""
    if path and Path(path).exists() and not Path(path).is_file():
        records = list(read())
        return lambda: iter(records)
    return read


def find_finished(
    records: Iterable[Mapping[str, Any]], output: PathLike | None, command: str, result: str, texts: Sequence[str]
) -> tuple[set[int], int]:
    """(indices of the records whose results are in the output file, number of records).

    A result has the field `result` and the `texts` of its record. If several records have the same id, as many of them are
    finished as results have it, the first ones.

    Raises:
      ConfigError: the output file has other records than results of `command`, or results of other texts.
    """
    left = collections.defaultdict(list)
    for old in lines.read_records(output) if output else ():
        if "error" in old:
            continue
        if not {"id", result} <= old.keys():
            raise ConfigError(f"--output={output} has records that are no results of {command}; give another file")
        left[json.dumps(old["id"])].append({name: shorten(old[name]) for name in texts if name in old})
    finished, count = set(), 0
    for record in records:
        if done := left[json.dumps(record["id"])]:
            check_same(record, done.pop(0), output, texts)
            finished.add(count)
        count += 1
    return finished, count


def check_same(
    record: Mapping[str, Any], old: Mapping[str, tuple[str, str]], output: PathLike | None, texts: Sequence[str]
) -> None:
    """Raises ConfigError if a record has other texts than its old result, as `shorten` returns them."""
    for name in texts:
        if name in record and (was := old.get(name, ("", ""))) != (now := shorten(record[name])):
            raise ConfigError(
                f"--output={output} has a result of id={record['id']!a} for the {name} {was[0]!a}, now the {name} is "
                f"{now[0]!a}; give another file"
            )


def shorten(text: str) -> tuple[str, str]:
    """(beginning, hash) of a text."""
    return text[:START], hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).hexdigest()


def write_results(results: Iterable[dict[str, Any]], output: str | None) -> list[str]:
    """Writes results, each as soon as it is there; returns the errors of those that failed."""
    failed = []
    with open_output(output) as out:
        for result in results:
            print(to_json(result), file=out, flush=True)
            if "error" in result:
                failed.append(f"id={result['id']!a}: {result['error']}")
    return failed


def report_failures(failed: list[str], count: int, noun: str) -> int:
    """Prints the errors of the records that failed, and returns the exit code.

    Raises:
      ConfigError: all failed.
    """
    if not failed:
        return 0
    summary = f"{len(failed)} of {count} {noun} failed; a run with the same --output tries them again"
    if len(failed) == count:
        raise ConfigError(f"{failed[0]} ({summary})")
    for line in failed[:SHOWN]:
        print(f"t5x_like: {line}", file=sys.stderr)
    print(f"t5x_like: {summary}", file=sys.stderr)
    return 1


def to_json(result: dict[str, Any]) -> str:
    """A result as JSON; what cannot be written as UTF-8 is escaped."""
    text = json.dumps(result, ensure_ascii=False)
    return text if text.isascii() or is_unicode(text) else json.dumps(result)


def is_unicode(text: str) -> bool:
    """Whether a text has no half of a surrogate pair."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
