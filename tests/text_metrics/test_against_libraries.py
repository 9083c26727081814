"""Metrics against reference libraries; a test is skipped if its library is not installed."""

import numpy as np
import pytest

from t5x_like import text_metrics as tm
from t5x_like.text_metrics import generation
from t5x_like.text_metrics.bootstrap import difference_interval, percent_interval, wilson

RNG = np.random.default_rng(0)
PREDICTIONS = ["The cat sat on the mat.", "He reads a book, slowly.", "It rains today in Lisbon"]
REFERENCES = [
    ["A cat sat on the mat.", "The cat is on a mat."],
    ["He is reading a book slowly."],
    ["It rains in Lisbon today"],
]


@pytest.mark.parametrize("tokenize", ["13a", "intl"])
def test_bleu(tokenize):
    sacrebleu = pytest.importorskip("sacrebleu")
    streams = [[w[0] for w in REFERENCES], [w[1] if len(w) > 1 else None for w in REFERENCES]]
    wanted = sacrebleu.BLEU(tokenize=tokenize).corpus_score(PREDICTIONS, streams).score
    assert tm.bleu(REFERENCES, PREDICTIONS, tokenize=tokenize)["bleu"] == pytest.approx(wanted)
    assert tm.bleu(PREDICTIONS, PREDICTIONS) == {"bleu": pytest.approx(100), "bleu_length_ratio": 1}
    first = sacrebleu.CHRF(word_order=2).corpus_score(PREDICTIONS, streams[:1]).score
    assert tm.chrf([w[0] for w in REFERENCES], PREDICTIONS, word_order=2)["chrf"] == pytest.approx(first)


def test_bleu_by_hand():
    """Precisions 3/4, 2/3, 1/2 and, smoothed, 1/2 of the one 4-gram; no brevity penalty."""
    pytest.importorskip("sacrebleu")
    assert tm.bleu(["a b c d"], ["a b c x"])["bleu"] == pytest.approx(100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25)


def test_rouge():
    scorers = pytest.importorskip("rouge_score.rouge_scorer")
    scorer = scorers.RougeScorer(["rouge1", "rougeL"], use_stemmer=True)
    made = tm.rouge(REFERENCES, PREDICTIONS, use_stemmer=True)
    for name in ("rouge1", "rougeL"):
        best = [
            max(scorer.score(one, given)[name].fmeasure for one in wanted)
            for wanted, given in zip(REFERENCES, PREDICTIONS, strict=True)
        ]
        assert made[name] == pytest.approx(100 * np.mean(best))
    # 2 of 3 words, 1 of 2 pairs: precision = recall.
    by_hand = tm.rouge(["a b c"], ["a b d"])
    assert by_hand == {name: pytest.approx(100 * (1 / 2 if name == "rouge2" else 2 / 3)) for name in by_hand}


def test_edit_distance():
    editdistance = pytest.importorskip("editdistance")
    for _ in range(50):
        one, other = ("".join(RNG.choice([*"abc "], RNG.integers(0, 20))) for _ in range(2))
        assert generation.levenshtein(one, other) == editdistance.eval(one, other)


@pytest.mark.parametrize("classes", [2, 5])
def test_labels(classes):
    metrics = pytest.importorskip("sklearn.metrics")
    targets = RNG.integers(0, classes, 80)
    predictions = np.where(RNG.random(80) < 0.5, targets, RNG.integers(0, classes, 80))
    pair = (targets, predictions)
    assert tm.accuracy(*pair)["accuracy"] == pytest.approx(100 * metrics.accuracy_score(*pair))
    assert tm.macro_f1(*pair)["macro_f1"] == pytest.approx(100 * metrics.f1_score(*pair, average="macro"))
    assert tm.matthews_correlation(*pair)["matthews_correlation"] == pytest.approx(
        100 * metrics.matthews_corrcoef(*pair)
    )
    wide = metrics.f1_score(*pair, labels=range(classes + 2), average="macro", zero_division=0)
    assert tm.mean_multiclass_f1(classes + 2)(*pair)["mean_multiclass_f1"] == pytest.approx(100 * wide)
    if classes == 2:
        p_N = RNG.random(80)
        assert tm.f1(*pair)["f1"] == pytest.approx(100 * metrics.f1_score(*pair))
        assert tm.brier(targets, p_N)["brier"] == pytest.approx(metrics.brier_score_loss(targets, p_N))


def test_correlations():
    stats = pytest.importorskip("scipy.stats")
    x_N = RNG.integers(0, 10, 60).astype(float)
    y_N = x_N + RNG.integers(-4, 5, 60)
    assert tm.pearson(x_N, y_N)["pearson"] == pytest.approx(100 * stats.pearsonr(x_N, y_N).statistic)
    assert tm.spearman(x_N, y_N)["spearman"] == pytest.approx(100 * stats.spearmanr(x_N, y_N).statistic)


@pytest.mark.parametrize("right, count", [(0, 9), (9, 9), (3, 7), (40, 100)])
def test_wilson(right, count):
    stats = pytest.importorskip("scipy.stats")
    wanted = stats.binomtest(right, count).proportion_ci(0.9, method="wilson")
    assert wilson(right, count, 0.9) == pytest.approx((wanted.low, wanted.high))
    values = [100.0] * right + [0.0] * (count - right)
    low, high = percent_interval(values, level=0.9)
    assert (low, high) == pytest.approx((100 * wanted.low, 100 * wanted.high))


def test_difference():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(3)
    one_N = rng.normal(size=200)
    other_N = one_N + rng.normal(0.3, 0.2, 200)
    low, high = difference_interval(other_N, one_N)
    wanted = stats.bootstrap((other_N - one_N,), np.mean, method="percentile", rng=0).confidence_interval
    assert (low, high) == pytest.approx((wanted.low, wanted.high), abs=0.005)
    assert low < np.mean(other_N - one_N) < high and high - low < 0.1  # examples alone vary ten times as much
    with pytest.raises(ValueError, match="200 targets and 3 others"):
        difference_interval(one_N, one_N[:3])
