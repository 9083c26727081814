"""Command-line flags: a parser whose errors are one line, and types of numbers with their limits."""

import argparse
import math
from collections.abc import Sequence
from typing import NoReturn

from t5x_like.cli.gin.source import ConfigError
from t5x_like.data.cache.sources import default_root
from t5x_like.quantization import formats


class Parser(argparse.ArgumentParser):
    """A parser that raises ConfigError for unusable arguments, without printing all flags."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message.removeprefix('argument ')}; {self.prog} --help lists the flags")

    def check_needless(self, args: argparse.Namespace, names: Sequence[str], needed: str) -> None:
        """Raises ConfigError if one of the flags `names` is given although the flag `needed`, which reads it, is not."""
        given = [name for name in names if getattr(args, name) != self.get_default(name)]
        if given and not getattr(args, needed):
            self.error(f"--{given[0]}={getattr(args, given[0])} applies to --{needed}, which is not given")


def add_run(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Adds the flags of a command that opens a run."""
    parser.add_argument("--run_dir", required=required, help="directory of a run made by `t5x_like train`")
    parser.add_argument("--step", type=count, help="checkpoint to read (default: the newest)")


def add_quantization(parser: argparse.ArgumentParser) -> None:
    """Adds the flags for the formats of weights, and of the cache, in decoding."""
    parser.add_argument("--quantization", choices=formats.WEIGHTS, help="format of the weights (default: the run's)")
    parser.add_argument(
        "--kv_cache_dtype", choices=formats.CACHE, help="format of cached keys and values (default: the run's)"
    )


def add_machine(parser: argparse.ArgumentParser) -> None:
    """Adds the flags for the machine: processes and compile cache."""
    group = parser.add_argument_group("machine")
    add_compile_cache(group)
    group.add_argument(
        "--distributed",
        action="store_true",
        help="run as one of several processes (detected automatically on TPU and SLURM)",
    )
    group.add_argument("--coordinator", metavar="HOST:PORT", help="with --distributed: address of process 0")
    group.add_argument("--process_count", type=positive, metavar="N", help="with --coordinator: number of processes")
    group.add_argument("--process_index", type=count, metavar="I", help="with --coordinator: index of this process")


def add_compile_cache(parser: argparse._ActionsContainer) -> None:
    """Adds the flag for the compile cache."""
    parser.add_argument(
        "--compile_cache",
        default=str(default_root() / "xla"),
        metavar="FOLDER",
        help="folder that caches compiled programs between runs, '' for none (default: %(default)s)",
    )


def whole(text: str, low: int, high: int | None = None) -> int:
    """Parses a whole number from `low` to `high`.

    Raises:
      ArgumentTypeError: it is not one.
    """
    try:
        value = int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
    if value < low or (high is not None and value > high):
        raise argparse.ArgumentTypeError(f"{value} is not {f'{low} or more' if high is None else f'{low} to {high}'}")
    return value


def positive(text: str) -> int:
    """Parses a whole number of 1 or more."""
    return whole(text, 1)


def count(text: str) -> int:
    """Parses a whole number of 0 or more."""
    return whole(text, 0)


def length(text: str) -> int:
    """Parses a number of tokens, which devices count with 32 bits."""
    return whole(text, 1, 2**31 - 1)


def port(text: str) -> int:
    """Parses a TCP port; 0 is a free one."""
    return whole(text, 0, 65535)


def alternatives(text: str) -> int:
    """Parses a number of alternatives of a token."""
    return whole(text, 0, 20)


def seed(text: str) -> int:
    """Parses a seed."""
    return whole(text, 0, 2**63 - 1)


def number(text: str) -> float:
    """Parses a finite number.

    Raises:
      ArgumentTypeError: it is not one.
    """
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number")
    return value


def positive_number(text: str) -> float:
    """Parses a finite number above 0."""
    if (value := number(text)) <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return value


def amount(text: str) -> float:
    """Parses a finite number of 0 or more."""
    if (value := number(text)) < 0:
        raise argparse.ArgumentTypeError(f"{text} is not 0 or more")
    return value


def share(text: str) -> float:
    """Parses a number between 0 and 1, both excluded."""
    if not 0 < (value := number(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value
