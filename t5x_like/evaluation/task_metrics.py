"""Metrics of a task's answers, computed by the functions that its token cache names, with confidence intervals.

A metric is `metric(targets, predictions)` or `metric(targets, scores)`; one with a parameter `k` gets all samples of an
example. The result is a record, which is JSON:

    {"task", "step", "settings", "count", "metrics": {name: value}, "intervals": {name: [low, high]}, "functions": [...],
     "examples": [{"number", "inputs", "cut", "target": {"text", "value"}, "predictions": [{"text", "value"}, ...],
                   "scored": [{"text", "right", "log_prob", "tokens", "bytes"}, ...], "values": {name: value}}, ...]}

A `value` is a post-processed text. The `values` of an example are its contributions to the metrics that are means.
"""

import dataclasses
import functools
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from t5x_like.data.cache import sources
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.evaluation.examples import Question
from t5x_like.text_metrics import execution
from t5x_like.text_metrics.bootstrap import mean_interval, percent_interval
from t5x_like.text_metrics.postprocess import cut_at
from t5x_like.types import Vocabulary

HEAVY = ("tensorflow", "seqio")
# A cache may name functions of these packages, of the project of its task's module, and of the modules in $T5X_LIKE_TRUST.
TRUSTED = ("t5x_like.text_metrics", "t5x_like.tasks")
TRUST_VARIABLE = "T5X_LIKE_TRUST"
# What a function may do is decided by the environment or the caller, never by a cache.
CONSENT = ("allow", "trust")
NOT_PERCENT = ("brier", "edit_distance", "bits_per_byte", "perplexity", "word_perplexity")
Example = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Answer:
    """A model's answer: the ids of every sample, and the log-likelihoods (nats) of the question's continuations."""

    samples: Sequence[Sequence[int]]
    log_probs: Sequence[float]


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of a cache's manifest. `scored` takes log-likelihoods, `sampled` takes all samples of an example."""

    name: str
    function: Callable
    scored: bool
    sampled: bool

    @classmethod
    def from_manifest(cls, entry: Mapping[str, Any], module: str) -> "Metric":
        """Loads the metric of {"function": "module:qualname", "options"} for a task that `module` defines.

        Raises:
          ValueError: see `load_function`; or the function is not a metric.
        """
        function = load_function(entry, "metric", module)
        names = list(inspect.signature(function).parameters)
        if names[:1] != ["targets"] or names[1:2] not in (["predictions"], ["scores"]):
            raise ValueError(
                f"the metric {entry['function']} has the parameters {', '.join(names)}; a metric has (targets, predictions) "
                "or (targets, scores)"
            )
        return cls(entry["function"].rpartition(":")[2], function, names[1:2] == ["scores"], "k" in names)

    def __call__(self, examples: Sequence[Example]) -> dict[str, float]:
        """Computes the metric of a record's examples: {name: value}."""
        if self.scored:
            pairs = [pair for index, example in enumerate(examples) for pair in score_pairs(example, index)]
        else:
            pairs = [(example["target"]["value"], self.prediction(example)) for example in examples]
        targets, outputs = zip(*pairs, strict=True)
        return {name: float(value) for name, value in self.function(list(targets), list(outputs)).items()}

    def prediction(self, example: Example) -> Any:
        """The value of the first sample, or the values of all samples."""
        values = [sample["value"] for sample in example["predictions"]]
        return values if self.sampled else values[0]


def score_pairs(example: Example, index: int) -> list[tuple[Any, float]]:
    """(target, score) of the target, or of each choice as `text_metrics.rank_classification` expects it."""
    scored = example["scored"]
    if not example["ranked"]:
        return [(example["target"]["value"], scored[0]["log_prob"])]
    return [
        (((index, number), choice["right"], 1.0, max(choice["bytes"], 1)), choice["log_prob"])
        for number, choice in enumerate(scored)
    ]


def load_function(entry: Mapping[str, Any], kind: str, task_module: str) -> Callable:
    """Imports the function of {"function": "module:qualname", "options"} and binds its options.

    Raises:
      ValueError: the cache may not name it, it cannot be imported, or it imports TensorFlow.
    """
    text, options = check_entry(entry, kind, task_module)
    module, _, name = text.partition(":")
    remedy = (
        "metrics run during training, without TensorFlow: define the function at the top level of an importable module of "
        "plain Python, such as those of t5x_like.text_metrics, and build the cache again"
    )
    before = set(sys.modules)
    try:
        function: Any = importlib.import_module(module)
        for attribute in name.split("."):
            function = getattr(function, attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"the {kind} {text} cannot be imported ({error}); {remedy}") from error
    if imported := [library for library in HEAVY if library in sys.modules and library not in before]:
        raise ValueError(f"the {kind} {text} imports {imported[0]}; {remedy}")
    if (getattr(function, "__module__", None), getattr(function, "__qualname__", None)) != (module, name):
        raise ValueError(f"the {kind} {text} is not a function that {module} defines; {remedy}")
    return functools.partial(function, **options) if options else function


def check_entry(entry: Mapping[str, Any], kind: str, task_module: str) -> tuple[str, dict[str, Any]]:
    """(function, options) of a manifest's entry, which may come from elsewhere.

    Raises:
      ValueError: it is no entry, its module is not trusted, or an option gives consent.
    """
    text, options = (entry.get(name) if isinstance(entry, Mapping) else None for name in ("function", "options"))
    if not isinstance(text, str) or not isinstance(options, dict):
        raise ValueError(f"{entry!r} is not the entry of a {kind}; copy the cache again")
    module = text.partition(":")[0]
    allowed = (name.strip() for name in os.environ.get(TRUST_VARIABLE, "").split(","))
    trusted = [*TRUSTED, *filter(None, allowed)]
    inside = any(module == name or module.startswith(f"{name}.") for name in trusted)
    own = not task_module.startswith("t5x_like.") and sources.same_project(module, task_module)
    if not inside and not own:
        raise ValueError(
            f"the {kind} {text} is named by the token cache, and neither in {' nor '.join(TRUSTED)}, nor in the project of "
            f"the task's module {task_module}; if you trust it, set {TRUST_VARIABLE}={module}"
        )
    if consent := [name for name in options if name.startswith(CONSENT)]:
        raise ValueError(
            f"the {kind} {text} has the option {consent[0]} in the token cache; only the environment or the caller may "
            "allow it: leave the option out, and build the cache again"
        )
    return text, options


@dataclasses.dataclass(frozen=True)
class TaskMetrics:
    """The metrics of a task, with the post-processing of targets and predictions."""

    metrics: Sequence[Metric]
    postprocess: Callable[..., Any]
    vocabulary: Vocabulary
    stops: tuple[str, ...]
    functions: Sequence[Mapping[str, Any]]

    @classmethod
    def from_cache(cls, cache: TokenCache, stops: tuple[str, ...] = (), num_samples: int = 1) -> "TaskMetrics":
        """Loads the metrics that a cache's manifest names.

        Raises:
          ValueError: there are no metrics, they cannot be imported, or they need more samples.
          PermissionError: a metric runs programs, which is not allowed.
        """
        functions, postprocess = cache.manifest.get("metrics", ()), cache.manifest.get("postprocess")
        if not functions:
            raise ValueError(
                f"task {cache.task!r} has no metric_fns, so it cannot be evaluated; add one to the task, or use another task"
            )
        try:
            module = cache.definition[0]
            metrics = [Metric.from_manifest(entry, module) for entry in functions]
            process = load_function(postprocess, "postprocess function", module) if postprocess else keep_text
        except ValueError as error:
            raise ValueError(f"task {cache.task!r}: {error}") from error
        for metric in metrics:
            check_samples(cache.task, metric, num_samples)
            prepare_execution(metric)
        return cls(metrics, process, cache.vocabulary, stops, functions)

    @property
    def needs_scores(self) -> bool:
        """Whether any metric takes log-likelihoods."""
        return any(metric.scored for metric in self.metrics)

    @property
    def needs_predictions(self) -> bool:
        """Whether any metric takes predictions."""
        return not all(metric.scored for metric in self.metrics)

    def make_record(
        self,
        task: str,
        step: int,
        settings: Mapping[str, Any],
        questions: Sequence[Question],
        answers: Sequence[Answer],
    ) -> dict[str, Any]:
        """Computes the metrics and returns the record of one evaluation; see the module's docstring."""
        examples = [self.make_example(*pair) for pair in zip(questions, answers, strict=True)]
        metrics, intervals = compute_metrics(self.metrics, examples)
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

    def make_example(self, question: Question, answer: Answer) -> dict[str, Any]:
        """The record of a question and its answer, without metric values."""
        fields = question.fields
        inputs = fields.get("inputs_pretokenized")
        scored = zip(question.continuations, answer.log_probs, strict=True) if answer.log_probs else ()
        return {
            "number": question.number,
            "inputs": self.vocabulary.decode(question.context) if inputs is None else inputs,
            "cut": question.truncated,
            "target": {
                "text": question.target,
                "value": self.postprocess(question.target, example=fields, is_target=True),
            },
            "predictions": [self.make_prediction(ids, fields) for ids in answer.samples],
            "ranked": "choices" in fields,
            "scored": [
                {
                    "text": continuation.text,
                    "right": continuation.correct,
                    "log_prob": log_prob,
                    "tokens": len(continuation.ids),
                    "bytes": len(continuation.text.encode()),
                }
                for continuation, log_prob in scored
            ],
            "values": {},
        }

    def make_prediction(self, ids: Sequence[int], fields: Mapping[str, Any]) -> dict[str, Any]:
        """The text of a sample up to the first stop, and its post-processed value."""
        text = cut_at(self.vocabulary.decode(ids), self.stops)
        return {"text": text, "value": self.postprocess(text, example=fields, is_target=False)}


def check_samples(task: str, metric: Metric, num_samples: int) -> None:
    """Raises ValueError if a metric needs more samples than `num_samples` (pass@k)."""
    k = inspect.signature(metric.function).parameters["k"].default if metric.sampled else 1
    largest = max([k] if isinstance(k, int) else k)
    if largest > num_samples:
        raise ValueError(
            f"task {task!r}: metric {metric.name} has k={k}, num_samples={num_samples}; draw at least {largest} samples"
        )


def prepare_execution(metric: Metric) -> None:
    """Asks for consent before answers are generated if a metric runs programs, see `execution.prepare`."""
    if functools.partial(metric.function).func is execution.human_eval:
        execution.prepare()


def keep_text(text: str, example: Mapping[str, Any], is_target: bool) -> str:
    """The postprocess function of tasks without one: returns the text unchanged."""
    return text


def compute_metrics(
    metrics: Sequence[Metric], examples: Sequence[dict]
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """Computes (values, confidence intervals) by label, and adds `values` to the examples for metrics that are means."""
    values: dict[str, float] = {}
    intervals: dict[str, tuple[float, float]] = {}
    for metric in metrics:
        labels = label_values(metric, examples, values)
        per_example = per_example_values(metric, examples)
        for label, (name, value) in labels.items():
            values[label] = value
            value_N = per_example.get(name)
            if value_N is None or not np.isclose(value_N.mean(), value, rtol=1e-6, atol=1e-9):
                continue
            example_values = value_N.tolist()
            intervals[label] = (mean_interval if name in NOT_PERCENT else percent_interval)(example_values)
            for example, example_value in zip(examples, example_values, strict=True):
                example["values"][label] = example_value
    return values, intervals


def label_values(
    metric: Metric, examples: Sequence[Example], existing: Mapping[str, float]
) -> dict[str, tuple[str, float]]:
    """Computes a metric: {label: (name, value)}. The label of a name in `existing` is METRIC/NAME.

    Raises:
      RuntimeError: the metric failed.
    """
    try:
        values = metric(examples)
    except Exception as error:
        raise RuntimeError(f"metric {metric.name}: {type(error).__name__}: {error}") from error
    return {f"{metric.name}/{name}" if name in existing else name: (name, value) for name, value in values.items()}


def per_example_values(metric: Metric, examples: Sequence[Example]) -> dict[str, np.ndarray]:
    """The values [N] of a metric on each example alone, by name; {} if a single example has no value."""
    try:
        results = [metric([example]) for example in examples]
    except (ValueError, ArithmeticError):
        return {}
    names = set.intersection(*(set(result) for result in results))
    return {name: np.array([result[name] for result in results]) for name in names}
