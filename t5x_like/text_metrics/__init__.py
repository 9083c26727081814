"""Metrics of texts, labels and log-probabilities, in seqio's form: `metric(targets, predictions) -> {name: float}`.

Metrics of log-probabilities are `metric(targets, scores)`. Options have defaults, so `functools.partial(metric, option=...)` is
still a seqio metric. Units are those of the field: percent (0-100; correlations and MCC -100 to 100), except perplexity (1 and
up), bits_per_byte (bits), brier (0 is best) and edit_distance (characters).
"""

from t5x_like.text_metrics.answers import exact_match, knowledge_f1, number_match, squad, trivia_qa
from t5x_like.text_metrics.bootstrap import bootstrap, mean_interval
from t5x_like.text_metrics.correlation import pearson, spearman
from t5x_like.text_metrics.generation import bleu, chrf, edit_distance, rouge
from t5x_like.text_metrics.labels import (
    accuracy,
    brier,
    f1,
    macro_f1,
    matthews_correlation,
    mean_multiclass_f1,
    sequence_accuracy,
)
from t5x_like.text_metrics.likelihood import bits_per_byte, perplexity, rank_classification, word_perplexity
from t5x_like.text_metrics.sampling import pass_at_k

__all__ = [
    "accuracy",
    "bits_per_byte",
    "bleu",
    "bootstrap",
    "brier",
    "chrf",
    "edit_distance",
    "exact_match",
    "f1",
    "knowledge_f1",
    "macro_f1",
    "matthews_correlation",
    "mean_interval",
    "mean_multiclass_f1",
    "number_match",
    "pass_at_k",
    "pearson",
    "perplexity",
    "rank_classification",
    "rouge",
    "sequence_accuracy",
    "spearman",
    "squad",
    "trivia_qa",
    "word_perplexity",
]
