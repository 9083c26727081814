"""Evaluates a model on a task: generates answers, and scores continuations by their log-likelihood."""

import dataclasses
import functools
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from t5x_like import partitioning
from t5x_like.batching import generation, sharded
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.tokenizers import vocabularies
from t5x_like.decoding.beams import Beams, BeamSearch
from t5x_like.decoding.processors import Processor
from t5x_like.decoding.sampling import Greedy
from t5x_like.evaluation.examples import Continuation, Question, read_questions
from t5x_like.evaluation.task_metrics import Answer, TaskMetrics
from t5x_like.prompt_batches import BUCKET, add_prefix, pad_rows, round_up
from t5x_like.scoring.rows import Row, causal_row, seq2seq_row
from t5x_like.scoring.scorer import Scorer
from t5x_like.types import Model, Params, Sampler


@dataclasses.dataclass(frozen=True)
class TaskEvaluation:
    """Settings for evaluating the first `examples` examples (None: all) of a task's split by the task's own metrics.

    Prediction metrics get text from `sampler`, after `processors`, at most `max_new_tokens` tokens and up to the first of
    `stops`. Metrics with a parameter `k` (pass@k) get all `num_samples` samples. Score metrics get log-likelihoods of the
    targets, or of the `choices` of each example. Contexts are truncated to `inputs_length` ids, as training rows are. The
    results do not depend on `batch_size`.

    Raises (at first use):
      ValueError: a task without metrics, or metrics that cannot be imported without TensorFlow.
    """

    cache: TokenCache
    examples: int | None = None
    max_new_tokens: int = 64
    sampler: Sampler | BeamSearch = Greedy()  # noqa: RUF009 - frozen
    num_samples: int = 1
    stops: Sequence[str] = ()
    inputs_length: int | None = None
    batch_size: int = 32
    seed: int = 0
    processors: Sequence[Processor] = ()

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give 1 or more")
        if self.num_samples > 1 and isinstance(self.sampler, BeamSearch):
            raise ValueError(
                f"num_samples={self.num_samples} needs a sampler; all samples of a beam search are its best beam"
            )
        for name in ("examples", "inputs_length"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value}: give 1 or more, or None for no limit")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} is not in 0 .. 2^63 - 1")

    @property
    def task(self) -> str:
        """The name of the task."""
        return self.cache.task

    @functools.cached_property
    def metrics(self) -> TaskMetrics:
        """The metrics that the task's cache names."""
        return TaskMetrics.from_cache(self.cache, tuple(self.stops), self.num_samples)

    def settings(self, prefix: bool) -> dict[str, Any]:
        """The settings that answers depend on, as JSON; records with the same settings are comparable."""
        names = ("examples", "max_new_tokens", "num_samples", "stops", "inputs_length", "seed")
        options = {name: getattr(self, name) for name in names} | {"stops": list(self.stops)}
        source = {"split": self.cache.split, "cache": self.cache.manifest["fingerprint"]}
        processors = {"processors": repr(list(self.processors))} if self.processors else {}
        return source | options | {"choose": repr(self.sampler), "prefix": prefix} | processors


class TaskEvaluator:
    """Evaluates one model on one task. Compiled at first use.

    `prefix` marks a prefix LM, which reads contexts bidirectionally.
    """

    def __init__(
        self,
        evaluation: TaskEvaluation,
        model: Model,
        mesh: Mesh,
        rules: partitioning.Rules = partitioning.RULES,
        prefix: bool = False,
    ) -> None:
        generation.check_generates(model)
        self.evaluation, self.seq2seq, self.prefix = evaluation, model.encoder_decoder, prefix
        self.task, self.metrics, self.vocabulary = evaluation.task, evaluation.metrics, evaluation.cache.vocabulary
        self.settings = evaluation.settings(prefix)
        self.questions = read_questions(evaluation.cache, self.seq2seq, evaluation.examples, evaluation.inputs_length)
        decode_fn = generation.make_decode_fn(
            model, self.vocabulary, evaluation.sampler, evaluation.max_new_tokens, evaluation.processors
        )
        self.decode = sharded.ShardedFunction(decode_fn, evaluation.batch_size, mesh, rules)
        self.score = Scorer(model, mesh, rules, evaluation.batch_size, prefix=prefix)

    def __call__(self, params: Params) -> list[Answer]:
        """Answers all questions; `params` have the compute dtype."""
        samples = self.generate(params) if self.metrics.needs_predictions else [()] * len(self.questions)
        scores = self.log_likelihoods(params) if self.metrics.needs_scores else [()] * len(self.questions)
        return [Answer(*pair) for pair in zip(samples, scores, strict=True)]

    def make_record(self, answers: Sequence[Answer], step: int) -> dict[str, Any]:
        """Computes the metrics of the answers, without a device; see `task_metrics` for the record."""
        return self.metrics.make_record(self.task, step, self.settings, self.questions, answers)

    def generate(self, params: Params) -> list[tuple[tuple[int, ...], ...]]:
        """Generates the samples of every question: token ids by question and sample."""
        samples = range(self.evaluation.num_samples)
        jobs = [(question, sample) for question in self.questions for sample in samples]
        length = round_up(max(len(question.context) for question in self.questions), BUCKET)
        ids: list[tuple[int, ...]] = []
        damaged = 0
        for chunk in split_chunks(jobs, self.decode.size):
            batch = self.prompt_batch([question for question, _ in chunk], length)
            numbers = [question.number for question, _ in chunk], [sample for _, sample in chunk]
            generated = self.decode(params, batch | {"keys": generation.row_keys(self.evaluation.seed, *numbers)})
            generated = generated.best() if isinstance(generated, Beams) else generated
            rows = zip(generated.tokens_BN, generated.lengths_B, strict=True)
            ids += [tuple(tokens_N[:count].tolist()) for tokens_N, count in rows]
            damaged += int(np.isnan(generated.log_probs_BN).any(axis=1).sum())
        self.warn_of_nan(damaged, len(jobs), "samples")
        return [tuple(chunk) for chunk in split_chunks(ids, len(samples))]

    def warn_of_nan(self, damaged: int, count: int, what: str) -> None:
        """Warns that metrics are computed from NaN logits."""
        if damaged:
            warnings.warn(f"task {self.task}: the logits of {damaged} of {count} {what} are NaN", stacklevel=2)

    def prompt_batch(self, questions: Sequence[Question], length: int) -> dict[str, np.ndarray]:
        """The batch that generation starts from, contexts padded to `length`."""
        contexts = [question.context for question in questions]
        if self.seq2seq:
            start = [[vocabularies.start_id(self.vocabulary)]] * len(questions)
            return pad_rows(contexts, length, "encoder") | pad_rows(start, 1, "decoder")
        batch = pad_rows(contexts, length, "decoder")
        return add_prefix(batch, [question.prefix for question in questions]) if self.prefix else batch

    def log_likelihoods(self, params: Params) -> list[tuple[float, ...]]:
        """The log-likelihoods (nats) of the continuations of every question."""
        rows = [[self.row(question, each) for each in question.continuations] for question in self.questions]
        scores = [score.log_prob for score in self.score(params, [row for part in rows for row in part])]
        self.warn_of_nan(int(np.isnan(scores).sum()), len(scores), "log-likelihoods")
        values = iter(scores)
        return [tuple(next(values) for _ in part) for part in rows]

    def row(self, question: Question, continuation: Continuation) -> Row:
        """The row of a continuation; a question that the model cannot read is an error, not truncated."""
        if self.seq2seq:
            start, limits = vocabularies.start_id(self.vocabulary), dict.fromkeys(("encoder", "decoder"), sys.maxsize)
            return seq2seq_row(question.context, continuation.ids, start, limits)
        return causal_row(question.context, continuation.ids, sys.maxsize, question.prefix)


def split_chunks(items: Sequence, size: int) -> Iterator[Sequence]:
    """Yields the items in chunks of `size`."""
    return (items[begin : begin + size] for begin in range(0, len(items), size))


def build_evaluations(
    evaluation: Callable[..., TaskEvaluation], cache: Callable[..., TokenCache], tasks: str | Sequence[str]
) -> tuple[TaskEvaluation, ...]:
    """Builds `evaluation(cache=cache(task=name))` for each task. `tasks` is one name or several."""
    names = [tasks] if isinstance(tasks, str) else tasks
    return tuple(evaluation(cache=cache(task=name)) for name in names)
