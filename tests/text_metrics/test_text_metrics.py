"""Metrics against cases computed by hand, and their laws."""

import functools
import inspect
import math

import numpy as np
import pytest

from t5x_like import text_metrics as tm
from t5x_like.text_metrics import answers, generation, likelihood, sampling

METRICS = [getattr(tm, name) for name in tm.__all__ if name not in ("bootstrap", "mean_interval", "mean_multiclass_f1")]


@pytest.mark.parametrize("metric", METRICS, ids=lambda m: m.__name__)
def test_seqio_accepts_the_signature(metric):
    """seqio requires exactly (targets, predictions) or (targets, scores) without a default."""
    required = [n for n, p in inspect.signature(metric).parameters.items() if p.default is p.empty]
    assert required in (["targets", "predictions"], ["targets", "scores"])
    with pytest.raises(ValueError, match="empty"):
        metric([], [])
    with pytest.raises(ValueError, match="2 targets and 1"):
        metric(
            [[1], [1]] if metric is tm.perplexity else [(("a",), 1)] * 2 if "rank" in str(metric) else ["a", "b"], [1]
        )


def test_partial_options_keep_the_signature():
    metric = functools.partial(tm.pass_at_k, k=2)
    required = [n for n, p in inspect.signature(metric).parameters.items() if p.default is p.empty]
    assert required == ["targets", "predictions"]


def test_squad():
    made = tm.squad([["The cat!", "a dog"], "New York City", []], ["cat", "york", ""])
    # York: precision 1, recall 1/3 -> 1/2.
    assert made == {"em": pytest.approx(200 / 3), "f1": pytest.approx(100 * 2.5 / 3)}
    assert tm.squad([[]], ["something"]) == {"em": 0, "f1": 0}
    # Words count: "the the" is empty, "b b" has one b of two right.
    assert tm.squad(["b c"], ["b b the"])["f1"] == pytest.approx(50)


def test_trivia_qa_replaces_punctuation_by_spaces():
    assert tm.trivia_qa([["Spider Man"]], ["spider-man"]) == {"em": 100, "f1": 100}
    assert tm.squad([["Spider Man"]], ["spider-man"]) == {"em": 0, "f1": 0}
    assert tm.trivia_qa([["rock n roll"]], ["The rock_‘n’ roll"])["em"] == 100


def test_knowledge_f1():
    # 2 of 4 words of the response are 2 of the 3 of the knowledge.
    made = tm.knowledge_f1(["Paris, the capital (France)"], ["i think paris capital"])
    assert made == {"knowledge_f1": pytest.approx(100 * 4 / 7)}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so 5 + 6 = 11.\n#### 1,234", 1234),
        ("The answer is $18.50.", 18.5),
        ("He has 10-3=7", 7),
        ("it is -$5", -5),
        ("minus −2", -2),
        ("1, 2, 3", 3),
        ("x2 and .5", 0.5),
        ("\\boxed{42} is it, in 3 steps", 42),
        ("#### 7 apples, 8 pears", 7),
        ("The answer is 3.\nQ: 2 + 2?\nThe answer is 4.", 3),
        ("#### 1.2.3", None),
        ("no number, v2", None),
    ],
)
def test_final_number(text, number):
    assert answers.find_final_number(text) == number


def test_number_match():
    made = tm.number_match(["#### 72", 10, "0.50"], ["... #### 72", "nothing", "a half is .5"])
    assert made == {"exact_match": pytest.approx(200 / 3), "answered": pytest.approx(200 / 3)}
    with pytest.raises(ValueError, match="'none' has no number"):
        tm.number_match(["none"], ["1"])
    assert tm.exact_match([["a", "b"], "c"], [" b\n", "C"]) == {"exact_match": 50}


def test_labels():
    assert tm.accuracy(["a", "b", "c"], ["a", "c", "c"]) == {"accuracy": pytest.approx(200 / 3)}
    assert tm.accuracy(np.array([1, 0]), [np.int32(1), None]) == {"accuracy": 50}
    assert tm.sequence_accuracy([[1, 2], [3]], [[1, 2], [3, 0]]) == {"sequence_accuracy": 50}
    # TP 1, FP 1, FN 2.
    assert tm.f1([1, 1, 1, 0], [1, 0, 0, 1]) == {"f1": pytest.approx(40)}
    assert tm.f1([0], [0]) == {"f1": 0}
    assert tm.matthews_correlation([1, 1, 0, 0], [0, 0, 1, 1]) == {"matthews_correlation": -100}
    assert tm.matthews_correlation([1, 0], [1, 1]) == {"matthews_correlation": 0}
    assert tm.mean_multiclass_f1(4)([0, 1], [0, 1]) == {"mean_multiclass_f1": 50}


def test_brier():
    assert tm.brier([1, 0], [0.8, 0.4]) == {"brier": pytest.approx((0.04 + 0.16) / 2)}
    assert tm.brier([1, 0], [[0.2, 0.8], [0.6, 0.4]]) == {"brier": pytest.approx(0.04 + 0.16)}
    with pytest.raises(ValueError, match="between 0 and 1"):
        tm.brier([1], [1.5])
    with pytest.raises(ValueError, match="do not add up to 1"):
        tm.brier([1], [[0.5, 0.1]])
    with pytest.raises(ValueError, match="classes 0 to 1"):
        tm.brier([2], [0.5])


def test_correlations():
    assert tm.pearson([1, 2, 3], [2, 4, 6]) == {"pearson": pytest.approx(100)}
    assert tm.spearman([1, 2, 3], [9, 8, -100]) == {"spearman": pytest.approx(-100)}
    assert math.isnan(tm.pearson([0.1] * 3, [1, 2, 3])["pearson"])
    with pytest.raises(ValueError, match=r"predictions\[1\] is NaN"):
        tm.pearson([1, 2], [1, float("nan")])


def test_likelihood():
    # A uniform model over 8 symbols has perplexity 8 and spends 3 bits on each.
    assert tm.perplexity([[1, 2], [3]], [-2 * math.log(8), -math.log(8)]) == {"perplexity": pytest.approx(8)}
    assert tm.bits_per_byte(["ab", "é"], [-2 * math.log(8)] * 2) == {"bits_per_byte": pytest.approx(3)}
    assert tm.word_perplexity(["one two", " three"], [-1, -2]) == {"word_perplexity": pytest.approx(math.e)}
    assert tm.perplexity([[1]], [-math.inf]) == {"perplexity": math.inf}
    with pytest.raises(ValueError, match="above 0"):
        tm.bits_per_byte(["a"], [0.5])
    with pytest.raises(ValueError, match="have no count of tokens"):
        tm.perplexity(["a"], [-1])
    with pytest.raises(ValueError, match="no byte"):
        tm.bits_per_byte([""], [-1])


def test_rank_classification():
    targets = [(("q1", 0), True, 1.0, 4), (("q2", 0), True, 3.0, 1), (("q1", 1), False, 1.0, 1), (("q2", 1), 0, 3.0, 9)]
    # q1: -8 against -4 is wrong, per token -2 against -4 is right; q2 is right, per token wrong (-9 against -1).
    made = tm.rank_classification(targets, [-8.0, -9.0, -4.0, -9.5])
    assert made == {"accuracy": pytest.approx(75), "accuracy_normalised": pytest.approx(25)}
    bare = [target[:2] for target in targets]
    assert tm.rank_classification(bare, [-8.0, -9.0, -4.0, -9.5]) == {"accuracy": 50}
    assert likelihood.rank_choices(bare, np.array([-8.0, -9.0, -4.0, -9.5])).tolist() == [False, True]
    with pytest.raises(ValueError, match="example 0 has no right choice"):
        tm.rank_classification([((0, 0), False)], [-1])
    with pytest.raises(ValueError, match="has length 0"):
        tm.rank_classification([((0, 0), True, 1, 0)], [-1])


@pytest.mark.parametrize(("n", "right", "k"), [(5, 2, 1), (5, 2, 3), (10, 1, 4), (7, 0, 2), (4, 4, 4), (6, 3, 4)])
def test_pass_at_k_is_the_share_of_subsets(n, right, k):
    assert sampling.unbiased_pass_at_k(n, right, k) == pytest.approx(1 - math.comb(n - right, k) / math.comb(n, k))


def test_pass_at_k():
    made = tm.pass_at_k(["4", "x"], [["4", "5"], ["y", "z"]], k=(1, 2))
    assert made == {"pass@1": pytest.approx(25), "pass@2": pytest.approx(50)}
    passing = tm.pass_at_k([4], [["2+2", "2*3"]], passes=lambda target, sample: len(sample) == target - 1)
    assert passing == {"pass@1": 100}
    with pytest.raises(ValueError, match="draw more or lower k"):
        tm.pass_at_k(["a"], [["a"]], k=2)
    assert sampling.unbiased_pass_at_k(10_000, 1, 100) == pytest.approx(0.01)


def test_edit_distance():
    assert generation.levenshtein("kitten", "sitting") == 3
    assert generation.levenshtein("", "abc") == generation.levenshtein("abc", "") == 3
    made = tm.edit_distance(["a cat", "sat"], ["a bat", "sat on"])
    assert made == {"edit_distance": 2, "character_error_rate": 50, "word_error_rate": pytest.approx(200 / 3)}


def test_bootstrap_intervals_have_their_coverage():
    rng = np.random.default_rng(1)
    inside = 0
    for trial in range(200):
        low, high = tm.mean_interval(rng.normal(3, 2, 60), samples=300, seed=trial)
        inside += low <= 3 <= high
    assert 0.89 <= inside / 200 <= 0.99


def test_bootstrap_of_a_metric():
    targets, predictions = [1] * 50, [1] * 30 + [0] * 20
    made = tm.bootstrap(tm.accuracy, targets, predictions, samples=400)
    low, high = made["accuracy"]
    spread = 100 * 1.96 * math.sqrt(0.6 * 0.4 / 50)
    assert low == pytest.approx(60 - spread, abs=3) and high == pytest.approx(60 + spread, abs=3)
    assert made == tm.bootstrap(tm.accuracy, targets, predictions, samples=400)
    with pytest.raises(ValueError, match="level=95"):
        tm.bootstrap(tm.accuracy, targets, predictions, level=95)


def test_missing_library_errors_name_the_package(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sacrebleu", None)
    with pytest.raises(ImportError, match=r"package sacrebleu.*t5x_like\[metrics\]"):
        tm.bleu(["a"], ["a"])
