"""A task's questions put to a model: what it says (decoded), and how likely it finds the right answers (scored)."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from t5x_like import inference, partitioning
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.tokenizers import vocabularies
from t5x_like.decoding.sampling import Greedy
from t5x_like.evaluation import examples
from t5x_like.evaluation.examples import Continuation, Question
from t5x_like.evaluation.task_metrics import Answer, Judge
from t5x_like.objectives.tokens import token_logps, token_sums


@dataclasses.dataclass(frozen=True)
class TaskEvaluation:
    """The first `examples` documents of a task's split (None: all) asked, and judged by the task's own metrics.

    Metrics of predictions are given what `choose` makes, up to `max_new_tokens` tokens and to the first of `stops`; those
    that have a parameter `k` (pass@k) are given all `num_samples`. Metrics of scores are given log-likelihoods of the targets,
    or, where examples have `choices`, of each of these. Contexts are cut to `inputs_length` ids, as training's rows are
    to their length. Nothing depends on `batch_size`.

    Raises (at first use):
      ValueError: a task without metrics, or metrics that cannot be imported without TensorFlow.
    """

    cache: TokenCache
    examples: int | None = None
    max_new_tokens: int = 64
    choose: Callable = Greedy()  # noqa: RUF009 - frozen
    num_samples: int = 1
    stops: Sequence[str] = ()
    inputs_length: int | None = None
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self):
        for name in ("max_new_tokens", "num_samples", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give 1 or more")

    @property
    def task(self) -> str:
        return self.cache.task

    @functools.cached_property
    def judge(self) -> Judge:
        return Judge.of(self.cache, tuple(self.stops), self.num_samples)

    def settings(self, prefix: bool) -> dict[str, Any]:
        """What answers depend on besides the model, as JSON: two records with the same settings can be compared."""
        names = ("examples", "max_new_tokens", "num_samples", "stops", "inputs_length", "seed")
        options = {name: getattr(self, name) for name in names} | {"stops": list(self.stops)}
        source = {"split": self.cache.split, "cache": self.cache.manifest["fingerprint"]}
        return source | options | {"choose": repr(self.choose), "prefix": prefix}


class Asked:
    """A task's questions to one model: compiled at first use, asked as often as wanted.

    `prefix` says that the model is a prefix LM, which reads contexts bidirectionally.
    """

    def __init__(
        self,
        evaluation: TaskEvaluation,
        model: nn.Module,
        mesh: Mesh,
        rules: partitioning.Rules = partitioning.RULES,
        prefix: bool = False,
    ):
        self.evaluation, self.seq2seq, self.prefix = evaluation, model.encoder_decoder, prefix
        self.task, self.judge, self.vocabulary = evaluation.task, evaluation.judge, evaluation.cache.vocabulary
        self.settings = evaluation.settings(prefix)
        self.questions = examples.questions(
            evaluation.cache, self.seq2seq, evaluation.examples, evaluation.inputs_length
        )
        decode = inference.decoding(model, self.vocabulary, evaluation.choose, evaluation.max_new_tokens)
        self.decode = inference.OnMesh(decode, evaluation.batch_size, mesh, rules)
        self.score = inference.OnMesh(scoring(model), evaluation.batch_size, mesh, rules)

    def __call__(self, params) -> list[Answer]:
        """The answers to all questions; `params` in the dtype to compute in."""
        said = self.predictions(params) if self.judge.wants_predictions else [()] * len(self.questions)
        scores = self.log_likelihoods(params) if self.judge.wants_scores else [()] * len(self.questions)
        return [Answer(*both) for both in zip(said, scores, strict=True)]

    def record(self, answers: Sequence[Answer], step: int) -> dict[str, Any]:
        """The answers judged; needs no device."""
        return self.judge.record(self.task, step, self.settings, self.questions, answers)

    def predictions(self, params) -> list[tuple[tuple[int, ...], ...]]:
        """The ids of every sample, by question."""
        samples = range(self.evaluation.num_samples)
        wanted = [(question, sample) for question in self.questions for sample in samples]
        length = inference.round_up(max(len(question.context) for question in self.questions), inference.BUCKET)
        made: list[tuple[int, ...]] = []
        for some in chunks(wanted, self.decode.size):
            batch = self.prompts([question for question, _ in some], length)
            numbers = [question.number for question, _ in some], [sample for _, sample in some]
            said = self.decode(params, batch | {"keys": inference.row_keys(self.evaluation.seed, *numbers)})
            rows = zip(said.tokens_BN, said.lengths_B, strict=True)
            made += [tuple(tokens_N[:count].tolist()) for tokens_N, count in rows]
        return [tuple(some) for some in chunks(made, len(samples))]

    def prompts(self, questions: Sequence[Question], length: int) -> dict[str, np.ndarray]:
        """What is read before the first token is chosen."""
        contexts = [question.context for question in questions]
        if self.seq2seq:
            start = [[vocabularies.start_id(self.vocabulary)]] * len(questions)
            return inference.side(contexts, length, "encoder") | inference.side(start, 1, "decoder")
        return self.with_prefix(inference.side(contexts, length, "decoder"), questions)

    def log_likelihoods(self, params) -> list[tuple[float, ...]]:
        """The log-likelihood (nats) of every continuation, by question."""
        wanted = [(question, one) for question in self.questions for one in question.continuations]
        sizes = [(len(question.context), len(one.ids)) for question, one in wanted]
        lengths = [max(side) for side in zip(*sizes, strict=True)] if self.seq2seq else [max(map(sum, sizes))]
        lengths = [inference.round_up(length, inference.BUCKET) for length in lengths]
        made = iter(
            float(value)
            for some in chunks(wanted, self.score.size)
            for value in self.score(params, self.continued(some, *lengths))
        )
        return [tuple(next(made) for _ in question.continuations) for question in self.questions]

    def continued(self, some: Sequence[tuple[Question, Continuation]], *lengths: int) -> dict[str, np.ndarray]:
        """Rows of contexts and continuations, with weight 1 on the tokens of the latter."""
        if self.seq2seq:
            start = vocabularies.start_id(self.vocabulary)
            batch = inference.side([question.context for question, _ in some], lengths[0], "encoder")
            return batch | targets([((start,), one.ids) for _, one in some], lengths[1])
        rows = [(question.context, one.ids) for question, one in some]
        return self.with_prefix(targets(rows, *lengths), [question for question, _ in some])

    def with_prefix(self, batch: dict[str, np.ndarray], questions: Sequence[Question]) -> dict[str, np.ndarray]:
        """The batch with what is read bidirectionally, if the model is a prefix LM."""
        if not self.prefix:
            return batch
        before_B1 = np.array([question.prefix for question in questions])[:, None]
        real_BL = batch["decoder_segment_ids"] > 0
        return batch | {"decoder_prefix": (real_BL & (batch["decoder_positions"] < before_B1)).astype(np.int32)}


def targets(rows: Sequence[tuple[Sequence[int], Sequence[int]]], length: int) -> dict[str, np.ndarray]:
    """The decoder's arrays of (what is read, what is to follow), as training's rows have them."""
    # A row with nothing to follow keeps its last token, so that there is one to attend to.
    batch = inference.side([[*read, *follow[:-1]] for read, follow in rows], length, "decoder")
    wanted = inference.side([[*read[1:], *follow] for read, follow in rows], length, "decoder")
    before_B1, size_B1 = (np.array([len(row[side]) for row in rows])[:, None] for side in (0, 1))
    column_L = np.arange(length)
    counts_BL = (column_L >= before_B1 - 1) & (column_L < before_B1 - 1 + size_B1)
    return batch | {
        "decoder_target_tokens": wanted["decoder_input_tokens"],
        "decoder_loss_weights": counts_BL.astype(np.float32),
    }


def scoring(model: nn.Module) -> Callable:
    """A function (params, batch) -> each row's sum of log p(target) [B], to be jitted."""

    def score(params, batch) -> jax.Array:
        def log_prob(logits_BLV, targets_BL):
            return {"log_prob": token_logps(logits_BLV, targets_BL)[0]}

        sums, _ = token_sums(model.apply, params, batch, None, "decoder", log_prob, inference.BUCKET)
        return sums["log_prob"]

    return score


def chunks(items: Sequence, size: int) -> Iterator[Sequence]:
    """The items, `size` at a time."""
    return (items[begin : begin + size] for begin in range(0, len(items), size))


def of_tasks(
    evaluation: Callable[..., TaskEvaluation], cache: Callable[..., TokenCache], tasks: str | Sequence[str]
) -> tuple[TaskEvaluation, ...]:
    """`evaluation(cache=cache(task=name))` of each task; `tasks` is a name or several, of none nothing is evaluated."""
    names = [tasks] if isinstance(tasks, str) else tasks
    return tuple(evaluation(cache=cache(task=name)) for name in names)
