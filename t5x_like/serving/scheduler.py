"""Decides what an engine's programs do next: which requests get rows, which chunks are read, who chooses tokens.

One `tick` admits waiting requests, reads one chunk of prompts, and lets the rows that have read theirs choose their next tokens.
A prompt that begins as the tokens of another row (a shared system prompt, an earlier turn of the chat, another sample of the same
prompt) goes on from a copy of that row; an input of an encoder, or a prompt with attention to both sides, only if it is the same.
Everything here is plain Python on one thread; the order of calls alone determines what is computed.
"""

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from t5x_like.data.tokenizers import vocabularies
from t5x_like.decoding.grammars import Matcher
from t5x_like.serving.programs import BLOCK, Programs, Size, row_settings
from t5x_like.serving.requests import Completion, Delta, Settings, Token
from t5x_like.serving.sizes import FACTOR, filled, next_size
from t5x_like.serving.text import TextStream
from t5x_like.types import Vocabulary

SHARED = 16  # a shorter common beginning is read again instead of copied
SHORTEST = 16  # tokens of the smallest chunk
PATIENCE = 32  # ticks with rows to spare before they are removed
FIRST_LENGTH = 128  # tokens per row of the first slots


@dataclasses.dataclass(eq=False)
class Work:
    """A request and what has been done for it.

    `ids` is its prompt, or the input of the encoder. `key` (uint32 [2]) and the position determine the random numbers. `text` is
    None if nothing needs it: neither a stop text nor a reader of pieces.
    """

    ids: list[int]
    settings: Settings
    key: np.ndarray
    text: TextStream | None = None
    on_delta: Callable[[Delta], None] = lambda delta: None
    matcher: Matcher | None = None
    order: int = 0
    cancelled: bool = False
    read: int = 0
    cached: int = 0
    tokens: list[Token] = dataclasses.field(default_factory=list)
    finish_reason: str | None = None
    error: str | None = None

    @property
    def is_reading(self) -> bool:
        """Whether a part of the prompt is unread."""
        return self.read < len(self.ids)

    def completion(self) -> Completion:
        """The result."""
        return Completion(
            self.text.text if self.text else "",
            tuple(self.tokens),
            self.finish_reason or "cancelled",
            len(self.ids),
            self.cached,
            self.error,
        )


@dataclasses.dataclass(eq=False)
class Row:
    """What the host knows of a row: whose it is, the last prompt, the tokens in its cache, and when it was last used."""

    work: Work | None = None
    prompt: list[int] = dataclasses.field(default_factory=list)
    known: list[int] = dataclasses.field(default_factory=list)
    used: int = 0


class Scheduler:
    """The requests of an engine, and the rows that they have; see the module.

    Attributes:
      offline: nobody waits for a first token, so all rows have read their prompts before any chooses tokens; and a completion
        does not depend on other requests to the last bit of its log-probabilities. So the slots keep their size, prompts are
        read in the same pieces in any case, as many at once as `programs.shards`, and what is copied is whole chunks, or the
        prompt of another sample, whose `ids` are the same list.
      fixed: the slots keep their size.
      waiting: requests without a row, the next one first.
      counts: totals since the start, by name.
    """

    def __init__(
        self,
        programs: Programs,
        vocabulary: Vocabulary,
        most_rows: int,
        max_length: int,
        chunk: int,
        offline: bool = False,
        fixed: bool = False,
    ) -> None:
        self.programs, self.vocabulary, self.offline, self.fixed = programs, vocabulary, offline, offline or fixed
        self.most_rows, self.max_length, self.chunk = most_rows, max_length, chunk
        self.encoder_decoder = programs.model.encoder_decoder
        self.waiting: collections.deque[Work] = collections.deque()
        self.rows = [Row() for _ in range(programs.size.rows)]
        self.kept = [Row() for _ in range(programs.kept_rows)]
        self.counts: collections.Counter[str] = collections.Counter()
        self.clock = 0
        self.spare_ticks = 0

    @property
    def active(self) -> list[Work]:
        """The requests that have rows, in the order of the rows."""
        return [row.work for row in self.rows if row.work is not None]

    def place(self, work: Work) -> int:
        """The index of a request's row."""
        return next(index for index, row in enumerate(self.rows) if row.work is work)

    def tick(self) -> None:
        """Does the next piece of work."""
        self.clock += 1
        self.drop_cancelled()
        if not self.fixed:
            self.shrink()
        self.admit()
        reading = self.reading()
        while reading:
            self.read(reading)
            if not self.offline:
                break
            self.admit()
            reading = self.reading()
        running = [work for work in self.active if not work.is_reading]
        if running:
            self.decode(running, more_to_read=any(work.is_reading for work in reading))

    def reading(self) -> list[Work]:
        """The requests that have rows and unread tokens, the first one first."""
        return sorted((work for work in self.active if work.is_reading), key=lambda work: work.order)

    def drop_cancelled(self) -> None:
        """Ends the requests that were cancelled."""
        for work in [work for work in self.waiting if work.cancelled]:
            self.waiting.remove(work)
            self.finish(work, "cancelled")
        for work in self.active:
            if work.cancelled:
                self.finish(work, "cancelled")

    def fail(self, error: str) -> None:
        """Ends all requests that have rows, and forgets the rows, because a program failed."""
        for work in self.active:
            self.finish(work, "error", error)
        self.rows = [Row() for _ in self.rows]
        self.kept = [Row() for _ in self.kept]
        self.programs.clear()

    def admit(self) -> None:
        """Gives rows to waiting requests."""
        for work in list(self.waiting):
            if len(self.active) == self.most_rows:
                return
            source, shared = self.find_source(work)
            if self.is_about_to_be_read(work, shared):
                continue  # its beginning is copied then
            row = self.find_free(source)
            self.waiting.remove(work)
            self.occupy(work, row, source, shared)

    @property
    def shares(self) -> bool:
        """Whether tokens are read alike whatever comes after them: no encoder, and no prefix with attention to both sides."""
        return not (self.encoder_decoder or self.programs.prefix)

    def find_source(self, work: Work) -> tuple[Row | None, int]:
        """The row whose tokens begin most as the prompt does, and how many are common; (None, 0) if they are few."""
        common = [(self.count_shared(work, row.prompt, row.known), row) for row in [*self.rows, *self.kept]]
        shared, row = max(common, key=lambda pair: (pair[0], pair[1].work is None))
        return (row, shared) if shared >= SHARED else (None, 0)

    def count_shared(self, work: Work, prompt: list[int], known: list[int]) -> int:
        """How many tokens of a prompt need not be read, given the tokens `known` of a row, which begin with its own prompt."""
        last = len(work.ids) - 1  # this token is read in any case, for its logits
        if work.ids is prompt or (not self.offline and work.ids == prompt):
            return min(last, len(known))
        if not self.shares:
            return 0
        common = count_common(work.ids[:last], known)
        return min(common, len(prompt)) // self.chunk * self.chunk if self.offline else common

    def is_about_to_be_read(self, work: Work, shared: int) -> bool:
        """Whether another request will read more of the prompt's beginning than the `shared` tokens that a row has."""
        least = max(SHARED, shared + 1)
        reading = [(other, self.count_shared(work, other.ids, other.ids)) for other in self.active if other.is_reading]
        return any(common >= least and common > other.read for other, common in reading)

    def find_free(self, source: Row | None) -> Row:
        """A row without a request, a new one if need be: the source if it is one, else that which was used longest ago."""
        if len(self.active) == len(self.rows):
            self.resize(rows=next_size(len(self.rows) + 1, 1, FACTOR, self.most_rows))
        free = [row for row in self.rows if row.work is None]
        return next((row for row in free if row is source), min(free, key=lambda row: (bool(row.known), row.used)))

    def occupy(self, work: Work, row: Row, source: Row | None, shared: int) -> None:
        """Gives a row to a request, with the first `shared` tokens of the source."""
        index = self.rows.index(row)
        row.work = work  # before any program runs: one that fails ends the requests that have rows
        self.keep(row, shared if row is source else 0, source)
        if source in self.kept:
            self.programs.restore(self.kept.index(source), index)
        elif source is not None and source is not row:
            self.programs.copy(self.rows.index(source), index)
        row.prompt, row.known = work.ids, [] if source is None else source.known[:shared]
        work.read = work.cached = shared
        for used in filter(None, (row, source)):
            used.used = self.clock
        self.counts["cached_prompt_tokens_total"] += shared

    def keep(self, row: Row, shared: int, source: Row | None) -> None:
        """Copies a row to the kept ones, but the source, if more than its first `shared` tokens would be lost."""
        places = [place for place in self.kept if place is not source]
        if not places or len(row.known) < shared + SHARED:
            return
        others = [other for other in [*self.rows, *self.kept] if other is not row]
        if any(count_common(row.known, other.known) == len(row.known) for other in others):
            return
        place = min(places, key=lambda place: (bool(place.known), place.used))
        self.programs.keep(self.rows.index(row), self.kept.index(place))
        place.known, place.used = list(row.known), row.used

    def shrink(self) -> None:
        """Removes rows that nobody has needed for a while, or that nobody needs now that all are free: they cost time."""
        wanted = len(self.active) + len(self.waiting)
        count = next_size(max(wanted, 1), 1, FACTOR, self.most_rows)
        self.spare_ticks = self.spare_ticks + 1 if count < len(self.rows) else 0
        if not self.spare_ticks or (self.active and self.spare_ticks < PATIENCE):
            return
        order = sorted(range(len(self.rows)), key=lambda i: (self.rows[i].work is None, -self.rows[i].used))
        for index in order[: count - 1 : -1]:
            self.keep(self.rows[index], 0, None)
        self.programs.resize(order[:count], dataclasses.replace(self.programs.size, rows=count))
        self.rows = [self.rows[index] for index in order[:count]]
        self.spare_ticks = 0

    def resize(self, rows: int | None = None, length: int | None = None, inputs: int | None = None) -> None:
        """Makes the slots larger."""
        old = self.programs.size
        new = Size(rows or old.rows, length or old.length, inputs or old.inputs)
        index = [*range(old.rows), *[0] * (new.rows - old.rows)]
        self.programs.resize(index, new)
        self.rows += [Row() for _ in range(new.rows - old.rows)]

    def require_length(self, length: int) -> None:
        """Makes the rows long enough for `length` tokens."""
        if length > self.programs.size.length:
            self.resize(length=next_size(length, FIRST_LENGTH, 2, self.max_length))

    def read(self, reading: Sequence[Work]) -> None:
        """Reads the next chunk of the first of these prompts, and of as many more as fit."""
        width, works, count = self.choose_read(reading)
        settings = row_settings([(work.settings, work.key) for work in works], count)
        rows = [self.place(work) for work in works]
        if self.encoder_decoder and works[0].read:  # the rows are copies, which have the encoder's output
            start = [vocabularies.start_id(self.vocabulary)]
            self.programs.read(rows, [0] * len(works), [start] * len(works), [True] * len(works), settings, (count, 1))
        elif self.encoder_decoder:
            if width > self.programs.size.inputs:
                self.resize(inputs=width)
            self.programs.read_inputs(rows, [work.ids for work in works], settings, (count, width))
        else:
            ends = [min(len(work.ids), work.read + width) for work in works]
            self.require_length(max(ends))
            chunks = [work.ids[work.read : end] for work, end in zip(works, ends, strict=True)]
            complete = [end == len(work.ids) for work, end in zip(works, ends, strict=True)]
            starts = [work.read for work in works]
            self.programs.read(rows, starts, chunks, complete, settings, (count, width))
        for work in works:
            chunk = work.ids[work.read : work.read + width]
            work.read += len(chunk)
            self.rows[self.place(work)].known += chunk
            self.counts["prompt_tokens_total"] += len(chunk)

    def choose_read(self, reading: Sequence[Work]) -> tuple[int, list[Work], int]:
        """What is read next: the width of the chunks, the prompts, and the rows that are computed for them."""
        width = self.width(reading[0])
        if self.offline:
            count = self.programs.shards
            works = [work for work in reading if self.width(work) == width]
        else:
            count = max(1, self.chunk // width)
            works = list(reading[:count])
        if not self.shares:  # a prompt is read at once; a copy of it has one token left
            works = [w for w in works if self.width(w) <= width and bool(w.read) == bool(reading[0].read)]
        rows = count if self.offline else filled(len(works), count)
        return width, works[:rows], rows

    def width(self, work: Work) -> int:
        """The width of the next chunk of a prompt, of the few that are compiled."""
        return next_size(len(work.ids) - work.read, SHORTEST, FACTOR, self.widest)

    @property
    def widest(self) -> int:
        """The most tokens of a prompt that are read at once."""
        size = self.programs.size
        most = (size.inputs or size.length) if self.offline else self.max_length
        return min(most, self.chunk) if self.shares else most

    def decode(self, running: Sequence[Work], more_to_read: bool) -> None:
        """Lets rows choose tokens: one if prompts wait to be read, if a row has none yet, or if a grammar needs to see it."""
        grammars = any(work.matcher is not None for work in running)
        one = grammars or (not self.offline and (more_to_read or any(not work.tokens for work in running)))
        steps = 1 if one else BLOCK
        used = max((1 if self.encoder_decoder else len(work.ids)) + len(work.tokens) for work in running)
        self.require_length(min(used + steps, self.max_length))
        live_B = np.array([row.work in running for row in self.rows])
        top = any(work.settings.top_log_probs for work in running)
        decoded = self.programs.decode(live_B, steps, top, self.masks() if grammars else None)
        for work in running:
            self.receive(work, self.place(work), decoded)

    def masks(self) -> np.ndarray:
        """The bits of the ids that every row may choose next, uint32 [B, W]."""
        words = -(-max(self.programs.model.vocab_size, self.vocabulary.vocab_size) // 32)
        mask_BW = np.full((len(self.rows), words), 0xFFFFFFFF, np.uint32)
        for index, row in enumerate(self.rows):
            if row.work is not None and row.work.matcher is not None:
                mask_BW[index] = row.work.matcher.mask()
        return mask_BW

    def receive(self, work: Work, index: int, decoded: Any) -> None:
        """Adds the tokens that a row chose to its request, and ends that if it is complete."""
        start, reason, error, pieces = len(work.tokens), None, None, []
        count = int(decoded.counts_B[index])
        for k in range(count):
            token = read_token(decoded, index, k, work.settings.top_log_probs)
            if np.isnan(token.log_prob):
                reason, error = "error", NAN.format(len(work.tokens) + 1)
                break
            work.tokens.append(token)
            pieces.append(work.text.push(token.id) if work.text else "")
            stops = work.settings.stop_ids and token.id in self.vocabulary.stop_ids
            if work.matcher is not None:
                work.matcher.consume(token.id)
                error = work.matcher.error
            if stops or (work.text and work.text.stopped) or (work.matcher is not None and work.matcher.is_finished):
                reason = "error" if error else "stop"
                break
        live = bool(decoded.live_B[index])
        if reason is None and not live:
            reason = "length"
        # The last token of a row that has ended is not in its cache.
        self.rows[index].known += decoded.tokens_BK[index, : count if live else count - 1].tolist()
        self.counts["generated_tokens_total"] += len(work.tokens) - start
        if reason is None:
            work.on_delta(Delta("".join(pieces), tuple(work.tokens[start:])))
        else:
            self.finish(work, reason, error, "".join(pieces), start)

    def finish(
        self, work: Work, reason: str, error: str | None = None, text: str = "", start: int | None = None
    ) -> None:
        """Ends a request: its row is free, and keeps its tokens until another one needs it."""
        work.finish_reason, work.error = reason, error
        for row in self.rows:
            if row.work is work:
                row.work, row.used, row.known = None, self.clock, [] if reason == "error" else row.known
        self.counts[f"requests_{reason}_total"] += 1
        new = tuple(work.tokens[start:]) if start is not None else ()
        text += work.text.finish() if work.text else ""
        work.on_delta(Delta(text, new, reason, error))


NAN = "the logits of new token {} are NaN; check the checkpoint's weights, or compute in float32"


def read_token(decoded: Any, row: int, k: int, top: int) -> Token:
    """Token k of a row."""
    pairs = zip(decoded.top_ids_BKN[row, k, :top].tolist(), decoded.top_BKN[row, k, :top].tolist(), strict=True)
    log_probs = float(decoded.log_probs_BK[row, k]), float(decoded.processed_BK[row, k])
    return Token(int(decoded.tokens_BK[row, k]), *log_probs, tuple(pairs) if top else ())


def count_common(ids: Sequence[int], others: Sequence[int]) -> int:
    """The length of the longest common beginning."""
    size = min(len(ids), len(others))
    different = np.flatnonzero(np.asarray(ids[:size]) != np.asarray(others[:size]))
    return int(different[0]) if len(different) else size
