"""An engine that continues many requests at once: rows of one batch, which requests enter and leave at any time.

    engine = Engine(model, params, vocabulary)
    print(engine.complete("def ", Settings(max_new_tokens=32)).text)

Requests come from any thread. One thread of the engine's own runs the programs; it starts with the first request.
"""

import functools
import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from t5x_like import parameters, partitioning, prompt_batches
from t5x_like.batching import embedding, generation
from t5x_like.decoding.grammars import Matcher, TokenTable, tokenizer_of
from t5x_like.progress import track
from t5x_like.quantization import cache, weights
from t5x_like.scoring.rows import DEFAULT_LENGTH, position_table
from t5x_like.serving import warm_up
from t5x_like.serving.options import DEFAULT, Options
from t5x_like.serving.programs import Programs, Size
from t5x_like.serving.reading import ROWS, PromptScorer
from t5x_like.serving.requests import Completion, Delta, QueueFullError, Settings, Token
from t5x_like.serving.scheduler import FIRST_LENGTH, SHORTEST, Scheduler, Work
from t5x_like.serving.text import TextStream
from t5x_like.types import Model, Params, Vocabulary

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]  # a text, ids, or the messages of a chat
GREEDY = Settings()


class Ticket:
    """A request that an engine has accepted."""

    def __init__(self, work: Work) -> None:
        self._work, self._done = work, threading.Event()

    @property
    def prompt_tokens(self) -> int:
        """The length of the prompt."""
        return len(self._work.ids)

    @property
    def cached_tokens(self) -> int:
        """How many tokens of the prompt had been read for an earlier request."""
        return self._work.cached

    def cancel(self) -> None:
        """Ends the request as soon as possible; its last `Delta` says "cancelled", unless it had ended."""
        self._work.cancelled = True

    def result(self, timeout: float | None = None) -> Completion:
        """Waits for the completion.

        Raises:
          TimeoutError: it takes longer than `timeout` seconds.
        """
        if not self._done.wait(timeout):
            raise TimeoutError(f"the completion takes longer than timeout={timeout} s")
        return self._work.completion()


class Engine:
    """Continues requests with a model; see the module. Nothing is compiled before the first request.

    `max_length` is the one of the options, or the model's.

    Raises:
      ValueError: a model without a decoder, or `max_length` beyond the position table.
    """

    def __init__(
        self,
        model: Model,
        params: Params,
        vocabulary: Vocabulary,
        options: Options = DEFAULT,
        mesh: Mesh | None = None,
        rules: partitioning.Rules = partitioning.RULES,
    ) -> None:
        generation.check_generates(model)
        self.model, self.params = parameters.unroll(model, params)
        if options.kv_cache_dtype is not None:
            self.model = cache.quantize(self.model, options.kv_cache_dtype)
        if options.quantization is not None:
            self.params = weights.quantize(self.model, self.params, options.quantization)
        self.vocabulary, self.options = vocabulary, options
        self.mesh, self.rules = partitioning.make_mesh() if mesh is None else mesh, rules
        self.max_length = options.max_length or min(DEFAULT_LENGTH, position_table(model) or DEFAULT_LENGTH)
        if options.fixed:
            size = Size(options.max_rows, self.max_length, self.max_length if model.encoder_decoder else 0)
        else:
            size = Size(1, min(FIRST_LENGTH, self.max_length), SHORTEST if model.encoder_decoder else 0)
        kept_rows = 0 if model.encoder_decoder or options.prefix else options.kept_rows
        programs = Programs(self.model, self.params, vocabulary, self.mesh, rules, options.prefix, size, kept_rows)
        row = programs.shapes(Size(1, self.max_length, size.inputs))  # raises what a short position table raises
        self.bytes = {
            "parameter_bytes": weights.size_in_bytes(self.params),
            "cache_bytes_per_token": weights.size_in_bytes(row.cache) / self.max_length,
        }
        sizes = options.max_rows, self.max_length, options.chunk
        self.scheduler = Scheduler(programs, vocabulary, *sizes, fixed=options.fixed)
        self._lock = threading.Lock()  # of `embed`, which runs in the caller's thread
        self._incoming: list[Work] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = False
        self._orders = itertools.count()
        self._seconds = 1.0  # of a request with a row, smoothed

    def warm_up(self) -> None:
        """Compiles the programs for rows as they are now, with a progress bar; with `fixed` these are all that there will be.

        Raises:
          RuntimeError: a request was submitted before.
        """
        with self._changed:
            if self._thread is not None:
                raise RuntimeError("the engine has requests; call warm_up before the first one")
            calls = warm_up.list_calls(self.scheduler)
            for call in track(calls, "compile", len(calls)):
                call()

    @functools.cached_property
    def token_table(self) -> TokenTable:
        """The vocabulary's tokens, for grammars."""
        return tokenizer_of(self.vocabulary, self.model.vocab_size)

    def submit(
        self,
        prompt: Sequence[int],
        settings: Settings = GREEDY,
        on_delta: Callable[[Delta], None] | None = None,
        key: np.ndarray | None = None,
    ) -> Ticket:
        """Accepts a request to continue the ids of a prompt.

        `on_delta` is called in the engine's thread, which waits for it, with every piece; the last one has a finish_reason. An
        exception in it is logged, and cancels the request. `key` is a random key (uint32 [2]) instead of that of `settings.seed`
        and `settings.sample`.

        Raises:
          ValueError: the prompt or the settings do not fit the model.
          QueueFullError: `max_waiting` requests wait.
          RuntimeError: the engine is closed.
        """
        self.check(prompt, settings)
        matcher = None if settings.grammar is None else Matcher(self.token_table, settings.grammar)
        key = make_key(settings.seed, settings.sample) if key is None else key
        text = TextStream(self.vocabulary, settings.stop)
        began = time.monotonic()

        def receive(delta: Delta) -> None:
            if delta.finish_reason is not None:
                self._seconds += 0.1 * (time.monotonic() - began - self._seconds)
                ticket._done.set()
            try:
                if on_delta is not None:
                    on_delta(delta)
            except Exception:  # of this request alone
                logging.getLogger(__name__).exception("on_delta failed; its request is cancelled")
                work.cancelled = True

        work = Work(list(prompt), settings, key, text, receive, matcher, next(self._orders))
        ticket = Ticket(work)
        with self._changed:
            if self._closing:
                raise RuntimeError("the engine is closed; it accepts no more requests")
            waiting = len(self._incoming) + len(self.scheduler.waiting)
            if waiting >= self.options.max_waiting:
                raise QueueFullError(waiting, max(1.0, self._seconds * waiting / self.options.max_rows))
            self._incoming.append(work)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
                self._thread.start()
            self._changed.notify()
        return ticket

    def check(self, prompt: Sequence[int], settings: Settings) -> None:
        """Checks a request.

        Raises:
          ValueError: the prompt or the settings do not fit the model.
        """
        self.check_prompt(prompt)
        self.check_ids("logit_bias", settings.logit_bias)
        if settings.top_k > self.model.vocab_size:
            raise ValueError(
                f"top_k={settings.top_k} is larger than the vocabulary of {self.model.vocab_size} ids; lower it"
            )
        used = 1 if self.model.encoder_decoder else len(prompt)
        if used + settings.max_new_tokens > self.max_length:
            raise ValueError(
                f"{used} tokens of the prompt and max_new_tokens={settings.max_new_tokens} are more than the "
                f"{self.max_length} tokens that a row holds; shorten the prompt, ask for fewer tokens, or raise the engine's "
                "max_length"
            )

    def check_prompt(self, prompt: Sequence[int]) -> None:
        """Raises ValueError if a prompt is empty, too long, or has ids outside the vocabulary."""
        if not len(prompt):
            raise ValueError("the prompt is empty; give at least one token")
        self.check_ids("the prompt", prompt)
        if len(prompt) > self.max_length:
            raise ValueError(f"the prompt has {len(prompt)} tokens, more than max_length={self.max_length}; shorten it")

    def check_ids(self, name: str, ids: Iterable[int]) -> None:
        """Raises ValueError if there are ids outside the vocabulary."""
        size = self.model.vocab_size
        if wrong := sorted({id for id in ids if not 0 <= id < size}):
            raise ValueError(
                f"{name} has the ids {wrong[:5]}; they must be in 0 .. {size - 1}, the ids of the vocabulary"
            )

    def encode(self, prompt: Prompt) -> list[int]:
        """The ids of a prompt: of a text with the special tokens that begin it, of a chat; ids as they are.

        Names of control tokens in a text are read as tokens, in messages they are text.

        Raises:
          ValueError: an empty or invalid text, or messages that the template rejects.
        """
        ids = [] if isinstance(prompt, str) else [int(part) for part in prompt if not isinstance(part, Mapping)]
        if ids:
            return ids
        record = {"prompt": prompt} if isinstance(prompt, str) else {"prompt": "", "messages": prompt}
        return prompt_batches.prompt_ids(record, self.vocabulary, self.model.encoder_decoder)

    def complete(self, prompt: Prompt, settings: Settings = GREEDY) -> Completion:
        """The completion of a prompt; see `encode`."""
        return self.submit(self.encode(prompt), settings).result()

    def chat(self, messages: Sequence[Mapping[str, Any]], settings: Settings = GREEDY) -> Completion:
        """The assistant's next message in a chat, [{"role", "content"}, ...], as the vocabulary's template renders it.

        Raises:
          ValueError: there is no template, or it rejects the messages.
        """
        return self.complete(messages, settings)

    def stream(self, prompt: Prompt, settings: Settings = GREEDY) -> Generator[Delta, None, None]:
        """The pieces of a completion as they come; the request is cancelled when the iterator is closed."""
        deltas: queue.SimpleQueue[Delta] = queue.SimpleQueue()
        ticket = self.submit(self.encode(prompt), settings, deltas.put)
        try:
            while True:
                delta = deltas.get()
                yield delta
                if delta.finish_reason is not None:
                    return
        finally:
            ticket.cancel()

    def generate(
        self, prompts: Iterable[Prompt], settings: Settings = GREEDY, samples: int = 1
    ) -> Iterator[list[Completion]]:
        """Yields the completions of every prompt, `samples` of each, in the order of the prompts.

        Prompt i, sample s have the random numbers of `inference.infer`. Prompts are taken as rows become free.
        """
        pending: list[list[Ticket]] = []
        for index, prompt in enumerate(prompts):
            if len(pending) * samples >= min(2 * self.options.max_rows, self.options.max_waiting):
                yield [ticket.result() for ticket in pending.pop(0)]
            ids, numbers = self.encode(prompt), range(samples)
            keys = [make_key(settings.seed, index, *([s] if samples > 1 else [])) for s in numbers]
            pending.append([self.submit(ids, settings, key=key) for key in keys])
        for tickets in pending:
            yield [ticket.result() for ticket in tickets]

    def score(self, prompts: Sequence[Prompt], top: int = 0) -> list[list[Token]]:
        """The tokens of every prompt but the first, each with its log-probability after those before it.

        `top` alternatives are reported per token. A prompt of one token gives [].

        Raises:
          ValueError: an encoder reads prompts, a prompt is longer than `max_length`, `top` is above 20, or a logit is NaN.
        """
        ids = [self.encode(prompt) for prompt in prompts]
        for row in ids:
            self.check_prompt(row)
        return self._scorer(ids, top)

    @functools.cached_property
    def _scorer(self) -> PromptScorer:
        return PromptScorer(self.model, self.params, self.mesh, self.rules)

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts, float32 [N, D], see `embedding.Embedder`."""
        with self._lock:
            return self._embedder(self.params, texts)

    @functools.cached_property
    def _embedder(self) -> embedding.Embedder:
        return embedding.Embedder(self.model, self.vocabulary, ROWS, self.mesh, self.rules, self.max_length)

    def statistics(self) -> dict[str, float]:
        """Numbers of rows and requests now, bytes, and totals since the start, whose names end with "_total".

        The bytes are those of all devices; of the cache those of a row of `max_length` tokens, per token.
        """
        waiting = len(self._incoming) + len(self.scheduler.waiting)
        now = {"running": len(self.scheduler.active), "waiting": waiting, "slots": self.options.max_rows}
        return {**now, **self.bytes, **self.scheduler.counts}

    def close(self, drain: bool = True) -> None:
        """Accepts no more requests and waits for the accepted ones; without `drain` it cancels them."""
        with self._changed:
            self._closing = True
            if not drain:
                for work in [*self._incoming, *self.scheduler.waiting, *self.scheduler.active]:
                    work.cancelled = True
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *error: object) -> None:
        self.close(drain=error[0] is None)

    def _run(self) -> None:
        """Runs the programs until the engine is closed and all requests have ended."""
        scheduler = self.scheduler
        while True:
            with self._changed:
                while not (self._incoming or self._closing or scheduler.waiting or scheduler.active):
                    self._changed.wait()
                scheduler.waiting.extend(self._incoming)
                self._incoming.clear()
                if self._closing and not (scheduler.waiting or scheduler.active):
                    return
            try:
                scheduler.tick()
            except Exception as error:
                logging.getLogger(__name__).exception("a program of the engine failed")
                scheduler.fail(f"{type(error).__name__}: {error}")


@functools.lru_cache(maxsize=4096)
def make_key(seed: int, *numbers: int) -> np.ndarray:
    """The random key of a seed with numbers folded in, uint32 [2]."""
    key = jax.random.PRNGKey(seed)
    for number in numbers:
        key = fold_in(key, np.uint32(number))
    return np.asarray(key)


fold_in = jax.jit(jax.random.fold_in)
