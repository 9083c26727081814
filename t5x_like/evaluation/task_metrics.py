"""Answers judged: post-processed and measured by the functions that a token cache names, with confidence intervals.

A metric is `metric(targets, predictions)`, or `metric(targets, scores)`; one that has a parameter `k` is given all samples of
an example. The result is a record, which is JSON:

    {"task", "step", "settings", "count", "metrics": {name: value}, "intervals": {name: [low, high]}, "functions": [...],
     "examples": [{"number", "inputs", "cut", "target": {"text", "value"}, "predictions": [{"text", "value"}, ...],
                   "scored": [{"text", "right", "log_prob", "tokens", "bytes"}, ...], "values": {name: value}}, ...]}

A `value` is what post-processing made of a text. The `values` of an example are those whose mean a metric is.
"""

import dataclasses
import functools
import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.evaluation.examples import Question
from t5x_like.text_metrics.bootstrap import mean_interval, percent_interval
from t5x_like.text_metrics.postprocess import until
from t5x_like.types import Vocabulary

HEAVY = ("tensorflow", "seqio")
NOT_PERCENT = ("brier", "edit_distance", "bits_per_byte", "perplexity", "word_perplexity")
Example = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a model said: the ids of every sample, and the log-likelihoods of the question's continuations."""

    samples: Sequence[Sequence[int]]
    log_probs: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric as a manifest names it."""

    name: str
    function: Callable
    scored: bool
    sampled: bool

    @classmethod
    def of(cls, named: Mapping[str, Any]) -> "Metric":
        """The metric of {"function": "module:qualname", "options"}."""
        function = found(named, "metric")
        names = list(inspect.signature(function).parameters)
        return cls(named["function"].rpartition(":")[2], function, names[1:2] == ["scores"], "k" in names)

    def __call__(self, examples: Sequence[Example]) -> dict[str, float]:
        """The metric of examples as a record has them."""
        if self.scored:
            pairs = [pair for place, example in enumerate(examples) for pair in scored_pairs(example, place)]
        else:
            pairs = [(example["target"]["value"], self.prediction(example)) for example in examples]
        targets, outputs = zip(*pairs, strict=True)
        return {name: float(value) for name, value in self.function(list(targets), list(outputs)).items()}

    def prediction(self, example: Example) -> Any:
        values = [one["value"] for one in example["predictions"]]
        return values if self.sampled else values[0]


def scored_pairs(example: Example, place: int) -> list[tuple[Any, float]]:
    """(target, score): of the target, or of each choice, as `text_metrics.rank_classification` reads it."""
    scored = example["scored"]
    if not example["ranked"]:
        return [(example["target"]["value"], scored[0]["log_prob"])]
    return [
        (((place, number), one["right"], 1.0, max(one["bytes"], 1)), one["log_prob"])
        for number, one in enumerate(scored)
    ]


def found(named: Mapping[str, Any], kind: str) -> Callable:
    """The function of {"function": "module:qualname", "options"}, its options given.

    Raises:
      ValueError: it cannot be imported, or it brings TensorFlow with it.
    """
    module, _, name = named["function"].partition(":")
    remedy = (
        "metrics are worked out beside training, without TensorFlow: put the function at the top level of a module of plain "
        "Python that can be imported here, such as those of t5x_like.text_metrics, and build the cache again"
    )
    before = set(sys.modules)
    try:
        function = functools.reduce(getattr, name.split("."), importlib.import_module(module))
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the {kind} {named['function']} cannot be imported ({error}); {remedy}") from error
    if brought := [library for library in HEAVY if library in sys.modules and library not in before]:
        raise ValueError(f"the {kind} {named['function']} imports {brought[0]}; {remedy}")
    return functools.partial(function, **named["options"]) if named["options"] else function


@dataclasses.dataclass(frozen=True)
class Judge:
    """The metrics of a task, and what makes of texts what they compare."""

    metrics: Sequence[Metric]
    postprocess: Callable[..., Any]
    vocabulary: Vocabulary
    stops: tuple[str, ...]
    functions: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, cache: TokenCache, stops: tuple[str, ...] = (), num_samples: int = 1) -> "Judge":
        """The judge that a cache's manifest describes.

        Raises:
          ValueError: there are no metrics, or they cannot be imported, or want more samples.
        """
        functions, postprocess = cache.manifest.get("metrics", ()), cache.manifest.get("postprocess")
        if not functions:
            raise ValueError(
                f"task {cache.task!r} has no metric_fns, so there is nothing to judge; add one to the task, or take another"
            )
        try:
            metrics = [Metric.of(named) for named in functions]
            process = found(postprocess, "postprocess function") if postprocess else as_it_is
        except ValueError as error:
            raise ValueError(f"task {cache.task!r}: {error}") from error
        for metric in metrics:
            check_samples(cache.task, metric, num_samples)
        return cls(metrics, process, cache.vocabulary, stops, functions)

    @property
    def wants_scores(self) -> bool:
        return any(metric.scored for metric in self.metrics)

    @property
    def wants_predictions(self) -> bool:
        return not all(metric.scored for metric in self.metrics)

    def record(
        self,
        task: str,
        step: int,
        settings: Mapping[str, Any],
        questions: Sequence[Question],
        answers: Sequence[Answer],
    ) -> dict[str, Any]:
        """Everything about one evaluation; see the module."""
        examples = [self.example(*pair) for pair in zip(questions, answers, strict=True)]
        metrics, intervals = measured(self.metrics, examples)
        return {
            "task": task,
            "step": step,
            "settings": dict(settings),
            "count": len(examples),
            "metrics": metrics,
            "intervals": intervals,
            "functions": list(self.functions),
            "examples": examples,
        }

    def example(self, question: Question, answer: Answer) -> dict[str, Any]:
        """A question and its answer, before they are measured."""
        fields = question.fields
        inputs = fields.get("inputs_pretokenized")
        scored = zip(question.continuations, answer.log_probs, strict=True) if answer.log_probs else ()
        return {
            "number": question.number,
            "inputs": self.vocabulary.decode(question.context) if inputs is None else inputs,
            "cut": question.cut,
            "target": {
                "text": question.target,
                "value": self.postprocess(question.target, example=fields, is_target=True),
            },
            "predictions": [self.prediction(ids, fields) for ids in answer.samples],
            "ranked": "choices" in fields,
            "scored": [
                {
                    "text": one.text,
                    "right": one.right,
                    "log_prob": log_prob,
                    "tokens": len(one.ids),
                    "bytes": len(one.text.encode()),
                }
                for one, log_prob in scored
            ],
            "values": {},
        }

    def prediction(self, ids: Sequence[int], fields: Mapping) -> dict[str, Any]:
        """A sample as text, up to the first stop, and what post-processing makes of it."""
        text = until(self.vocabulary.decode(ids), self.stops)
        return {"text": text, "value": self.postprocess(text, example=fields, is_target=False)}


def check_samples(task: str, metric: Metric, num_samples: int) -> None:
    """Refuses pass@k of more samples than there are."""
    wanted = inspect.signature(metric.function).parameters["k"].default if metric.sampled else 1
    most = max([wanted] if isinstance(wanted, int) else wanted)
    if most > num_samples:
        raise ValueError(
            f"task {task!r}: metric {metric.name} has k={wanted}, num_samples={num_samples}; draw at least {most} samples"
        )


def as_it_is(text: str, example: Mapping, is_target: bool) -> str:
    """The text, of a task without a postprocess function."""
    return text


def measured(
    metrics: Sequence[Metric], examples: Sequence[dict]
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """(values, intervals) by label; examples get the `values` whose means they are."""
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for metric in metrics:
        labels = labelled(metric, examples, values)
        each = values_of_each(metric, examples)
        for label, (name, value) in labels.items():
            values[label] = value
            value_N = each.get(name)
            if value_N is None or not np.isclose(value_N.mean(), value, rtol=1e-6, atol=1e-9):
                continue
            intervals[label] = (mean_interval if name in NOT_PERCENT else percent_interval)(value_N)
            for example, one in zip(examples, value_N.tolist(), strict=True):
                example["values"][label] = one
    return values, intervals


def labelled(metric: Metric, examples: Sequence[Example], taken: Mapping[str, float]) -> dict[str, tuple[str, float]]:
    """{label: (name, value)} of a metric; where a name is taken, the label says the metric too.

    Raises:
      RuntimeError: the metric failed.
    """
    try:
        values = metric(examples)
    except Exception as error:
        raise RuntimeError(f"metric {metric.name}: {type(error).__name__}: {error}") from error
    return {f"{metric.name}/{name}" if name in taken else name: (name, value) for name, value in values.items()}


def values_of_each(metric: Metric, examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """A metric of each example alone, by name; {} of one that has no value for one example."""
    try:
        each = [metric([example]) for example in examples]
    except (ValueError, ArithmeticError):
        return {}
    names = set.intersection(*(set(one) for one in each))
    return {name: np.array([one[name] for one in each]) for name in names}
