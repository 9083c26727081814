"""Continues many prompts by the programs of an engine, without its thread: rows that end make room for the next prompts.

The programs and the order of their calls depend on the prompts alone, so several processes make the same calls. All rows have the
same size at a time, one of few, each compiled once: that of the first prompt without a result, until no prompt at hand has it.
What a prompt is computed with depends on its own length alone, so its completion is the same to the last bit beside any others.
"""

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import jax
from jax.sharding import Mesh

from t5x_like import parameters, partitioning
from t5x_like.decoding.slots import Strategy
from t5x_like.prompt_batches import round_up
from t5x_like.scoring.rows import position_table
from t5x_like.serving.engine import make_key
from t5x_like.serving.programs import Programs, Size
from t5x_like.serving.requests import Completion, Settings
from t5x_like.serving.scheduler import Scheduler, Work
from t5x_like.serving.sizes import next_size
from t5x_like.serving.text import TextStream
from t5x_like.types import Model, Params, Vocabulary

SHORTEST = 64  # tokens of the smallest rows; the next are 96, 128, 192, 256, ...
CHUNK = 256  # the most tokens of a prompt that are read at once
AHEAD = 8  # prompts at hand per row


@dataclasses.dataclass(frozen=True)
class Prompt:
    """The ids of a prompt, its number, by which it is sampled, and what the caller keeps with it. No ids are not continued."""

    ids: Sequence[int]
    number: int
    record: Any = None


@dataclasses.dataclass(eq=False)
class Job:
    """A prompt, the size of its row, and one request per sample."""

    prompt: Prompt
    size: Size
    works: list[Work]
    entered: bool = False

    @property
    def is_done(self) -> bool:
        """Whether all samples are complete."""
        return all(work.finish_reason for work in self.works)


class Generator:
    """Continues prompts in their order, `samples` times each; see the module.

    `rows` is rounded up to a multiple of the mesh's batch shards. The `strategy` chooses tokens; of the settings, `stop`,
    `max_new_tokens`, `stop_ids`, `top_log_probs` and `seed` apply.

    Raises:
      ValueError: a model, sampler or processor that cannot continue any prompt.
    """

    def __init__(
        self,
        model: Model,
        params: Params,
        vocabulary: Vocabulary,
        settings: Settings,
        strategy: Strategy,
        rows: int,
        samples: int = 1,
        prefix: bool = False,
        mesh: Mesh | None = None,
        rules: partitioning.Rules = partitioning.RULES,
    ) -> None:
        mesh = partitioning.make_mesh() if mesh is None else mesh
        model, params = parameters.unroll(model, params)
        self.encoder_decoder, self.table = model.encoder_decoder, position_table(model)
        self.vocabulary, self.settings, self.samples = vocabulary, settings, samples
        self.rows = round_up(rows, partitioning.batch_devices(mesh, rules))
        self.smallest = self.size_of(1)
        self.programs = Programs(model, params, vocabulary, mesh, rules, prefix, self.smallest, 0, strategy)
        self.programs.check_strategy()
        self.scheduler: Scheduler | None = None
        self.failed: dict[Size, str] = {}

    def __call__(self, prompts: Iterable[Prompt]) -> Iterator[tuple[Prompt, list[Completion]]]:
        """Yields every prompt with its completions; those of a size that fails have an error.

        Prompts are taken as results are.

        Raises:
          MemoryError: the smallest rows are too large for the memory (JaxRuntimeError of a device that is no CPU).
        """
        jobs: collections.deque[Job] = collections.deque()
        coming = map(self.make_job, prompts)
        most = max(2, AHEAD * self.rows // self.samples)
        while True:
            jobs.extend(itertools.islice(coming, most - len(jobs)))
            if not jobs:
                return
            if not jobs[0].is_done:
                self.advance([job for job in jobs if not job.is_done])
                continue
            job = jobs.popleft()
            yield job.prompt, [work.completion() for work in job.works]

    def make_job(self, prompt: Prompt) -> Job:
        """The requests of a prompt."""
        settings, samples = self.settings, range(self.samples if prompt.ids else 0)
        keys = [make_key(settings.seed, prompt.number, *([s] if self.samples > 1 else [])) for s in samples]
        texts = [TextStream(self.vocabulary, settings.stop) if settings.stop else None for _ in samples]
        ids = list(prompt.ids)
        works = [Work(ids, settings, key, text) for key, text in zip(keys, texts, strict=True)]
        return Job(prompt, self.size_of(len(prompt.ids)), works)

    def size_of(self, count: int) -> Size:
        """The size of the rows that a prompt of `count` tokens needs; only one that does not fit exceeds the position table."""

        def fit(need: int) -> int:
            size = next_size(need, SHORTEST, 2, None)
            size = size // 4 * 3 if need <= size // 4 * 3 and size > SHORTEST else size
            return max(need, min(size, self.table or size))

        used, inputs = (1, fit(count)) if self.encoder_decoder else (count, 0)
        return Size(self.rows, fit(used + self.settings.max_new_tokens), inputs)

    def advance(self, jobs: Sequence[Job]) -> None:
        """Does the next piece of work for jobs that are not done."""
        size = self.programs.size
        if self.scheduler is None or all(job.size != size for job in jobs):
            size = jobs[0].size
        jobs = [job for job in jobs if job.size == size]
        try:
            if size in self.failed:
                raise ValueError(self.failed[size])
            self.run(size, jobs)
            return
        except ValueError as error:  # raised while tracing; the strategy was checked, so it depends on the size alone
            message = str(error)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if size == self.smallest or not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
                raise
            length = max(size.length, size.inputs)
            message = (
                f"{size.rows} prompts of {length} tokens need too much memory; lower batch_size or shorten this one"
            )
        self.scheduler, self.failed[size] = None, message
        for work in itertools.chain.from_iterable(job.works for job in jobs):
            work.finish_reason, work.error = work.finish_reason or "error", work.error or message

    def run(self, size: Size, jobs: Sequence[Job]) -> None:
        """Lets the scheduler of rows of this size do the next piece of work."""
        if self.scheduler is None or size != self.programs.size:
            self.programs.restart(size)
            self.scheduler = Scheduler(
                self.programs, self.vocabulary, size.rows, size.length, min(CHUNK, size.length), offline=True
            )
        for job in jobs:
            if not job.entered:
                self.scheduler.waiting.extend(job.works)
                job.entered = True
        self.scheduler.tick()
