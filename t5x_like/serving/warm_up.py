"""The programs of slots of the current size, as calls that change no row; after them no request waits for a compilation."""

from collections.abc import Callable

import numpy as np

from t5x_like.data.tokenizers import vocabularies
from t5x_like.serving.programs import row_settings
from t5x_like.serving.requests import Settings
from t5x_like.serving.scheduler import SHORTEST, Scheduler
from t5x_like.serving.sizes import list_sizes

Call = Callable[[], None]


def list_calls(scheduler: Scheduler) -> list[Call]:
    """The calls, for a scheduler without requests."""
    programs = scheduler.programs
    calls: list[Call] = [lambda: programs.copy(0, 0)]
    if scheduler.kept:
        calls += [lambda: programs.keep(0, 0), lambda: programs.restore(0, 0)]
    for width in list_sizes(SHORTEST, scheduler.widest):
        for count in list_sizes(1, max(1, scheduler.chunk // width)):
            calls.append(make_read(scheduler, count, width))
            if scheduler.encoder_decoder and width == SHORTEST:
                calls.append(make_copied_read(scheduler, count))
    return calls + [make_choice(scheduler, top, mask) for mask in (False, True) for top in (False, True)]


def make_read(scheduler: Scheduler, count: int, width: int) -> Call:
    """Reads chunks of `width` tokens of `count` prompts."""
    settings = row_settings([(Settings(), np.zeros(2, np.uint32))], count)
    if scheduler.encoder_decoder:
        return lambda: scheduler.programs.read_inputs([], [], settings, (count, width))
    return lambda: scheduler.programs.read([], [], [], [], settings, (count, width))


def make_copied_read(scheduler: Scheduler, count: int) -> Call:
    """Reads the start token of rows whose input was read for others."""
    settings = row_settings([(Settings(), np.zeros(2, np.uint32))], count)
    start = [vocabularies.start_id(scheduler.vocabulary)]
    return lambda: scheduler.programs.read([0], [0], [start], [False], settings, (count, 1))


def make_choice(scheduler: Scheduler, top: bool, mask: bool) -> Call:
    """Chooses tokens of no row, with alternatives or not, and with the masks of grammars or not."""

    def call() -> None:
        idle_B = np.zeros(len(scheduler.rows), bool)
        scheduler.programs.decode(idle_B, 1, top, scheduler.masks() if mask else None)

    return call
