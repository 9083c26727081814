"""Hashed n-gram classifiers on planted classes, the filters that use them, and word lists."""

import random
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from t5x_like.cleaning.classifier_filters import (
    LanguageFilter,
    Py3LangId,
    QualityFilter,
    load_language_classifier,
    load_quality_score,
    lomax,
)
from t5x_like.cleaning.ngram_classifier import CharacterNgrams, NgramClassifier, WordNgrams, gradient, softmax, train
from t5x_like.cleaning.word_list import WordList, read_word_list
from tests.cleaning.planted import STOP, WORDS, document, rule

LETTERS = {"en": "aeioutnshrdl", "fi": "aiteunlskoäm", "pl": "aiezonrwsycł"}


def random_line(language: str, rng: random.Random, words: int = 8) -> str:
    """Words with the letters of a language, the first ones more frequent."""
    letters = LETTERS[language]
    weights = [1 / (place + 2) for place in range(len(letters))]
    return " ".join("".join(rng.choices(letters, weights, k=rng.randint(2, 8))) for _ in range(words))


def page(good: bool, rng: random.Random) -> str:
    """Good pages use one half of the words more often than poor ones."""
    halves = WORDS[:200], WORDS[200:400]
    return " ".join(rng.choice(halves[(rng.random() < 0.65) ^ good] + list(STOP)) for _ in range(60))


def auc(scores: list[float], good: list[bool]) -> float:
    """How often a good one scores above a poor one."""
    above = [s > t for s, g in zip(scores, good, strict=True) if g for t, h in zip(scores, good, strict=True) if not h]
    return float(np.mean(above))


@pytest.fixture(scope="module")
def quality():
    rng = random.Random(0)
    good = [number % 2 == 0 for number in range(600)]
    labels = ["good" if each else "poor" for each in good]
    return train([page(each, rng) for each in good], labels, WordNgrams(buckets=1 << 14))


@pytest.fixture(scope="module")
def language():
    rng = random.Random(1)
    labels = list(LETTERS) * 100
    return train([random_line(label, rng) for label in labels], labels, CharacterNgrams(buckets=1 << 13))


def test_quality_auc_on_held_out_pages(quality):
    rng = random.Random(10)
    good = [number % 2 == 0 for number in range(300)]
    scores = [quality.probability("good", page(each, rng)) for each in good]
    assert auc(scores, good) > 0.97


def test_language_of_held_out_lines(language):
    rng = random.Random(11)
    labels = list(LETTERS) * 50
    assert np.mean([language.classify(random_line(label, rng))[0] == label for label in labels]) > 0.97


def test_probabilities_are_calibrated_enough(language):
    found = language.probabilities("")
    assert found.sum() == pytest.approx(1) and found.max() < 0.9


def test_training_is_reproducible_and_saved(quality, tmp_path):
    quality.save(tmp_path / "quality.npz")
    again = NgramClassifier.load(tmp_path / "quality.npz")
    text = page(True, random.Random(3))
    assert again.labels == quality.labels and again.features == quality.features
    assert (again.probabilities(text) == quality.probabilities(text)).all()
    assert load_quality_score(tmp_path / "quality.npz")(text) == quality.probability("good", text)
    assert load_language_classifier(tmp_path / "quality.npz")(text) == quality.classify(text)
    with pytest.raises(ValueError, match="label='fine' is not among those of .*: good, poor"):
        load_quality_score(tmp_path / "quality.npz", "fine")


def test_gradient_equals_differences():
    features, rng = WordNgrams(buckets=50), np.random.default_rng(0)
    rows = [features(page(True, random.Random(seed))) for seed in range(3)]
    targets = np.eye(2)[[0, 1, 0]]
    weights, bias = rng.normal(size=(50, 2)), rng.normal(size=2)

    def loss(weights, bias):
        logits = np.stack([values @ weights[buckets] + bias for buckets, values in rows])
        return -(targets * np.log(softmax(logits))).sum(-1).mean()

    buckets, slopes, bias_slopes = gradient(rows, targets, weights, bias)
    for index in (0, len(buckets) // 2):
        moved = weights.copy()
        moved[buckets[index], 1] += 1e-6
        assert (loss(moved, bias) - loss(weights, bias)) / 1e-6 == pytest.approx(slopes[index, 1], rel=1e-3)
    assert (loss(weights, bias + np.array([1e-6, 0])) - loss(weights, bias)) / 1e-6 == pytest.approx(
        bias_slopes[0], rel=1e-3
    )


def test_one_label_is_refused():
    with pytest.raises(ValueError, match="give at least two kinds"):
        train(["a"], ["x"], WordNgrams())


@pytest.mark.parametrize(
    ("found", "name"),
    [(("en", 0.65), "kept"), (("en", 0.64), "language.uncertain"), (("de", 0.99), "language.other")],
)
def test_language_filter(found, name):
    assert rule(LanguageFilter(lambda text: found)(document("text"))) == name


def test_py3langid_identifies_languages():
    pytest.importorskip("py3langid")
    identify = Py3LangId()
    texts = {"en": "This is a plain sentence, and that is another one.", "de": "Das ist ein Satz, und noch einer dazu."}
    assert {label: identify(text)[0] for label, text in texts.items()} == {"en": "en", "de": "de"}
    assert 0.65 < identify(texts["en"])[1] <= 1
    assert Py3LangId(("de", "fr"))(texts["en"])[0] in ("de", "fr")


def test_missing_py3langid_error_names_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "py3langid.langid", None)
    monkeypatch.setitem(sys.modules, "py3langid", SimpleNamespace())
    with pytest.raises(ImportError, match="pip install py3langid"):
        Py3LangId()("text")


def test_quality_filter():
    assert rule(QualityFilter(lambda text: 0.5)(document("x"))) == "kept"
    assert rule(QualityFilter(lambda text: 0.49)(document("x"))) == "quality.score"


@pytest.mark.parametrize("score", [0.9, 0.95, 1.0])
def test_pareto_keeps_the_expected_share(score):
    """P(kept) = P(Lomax(9) > 1 - score) = (2 - score)**-9, and the same documents in each run."""
    step = QualityFilter(lambda text: score, pareto=9)
    kept = [rule(step(document("x", str(number)))) == "kept" for number in range(2000)]
    expected = (2 - score) ** -9
    assert abs(np.mean(kept) - expected) < 4 * np.sqrt(max(expected * (1 - expected), 1e-9) / 2000) + 1e-9
    assert kept == [rule(step(document("x", str(number)))) == "kept" for number in range(2000)]
    assert lomax(9, "a") != lomax(9, "b")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A badly behaved dog.", "kept"),
        ("A BAD, dog.", "word_list.bad_words"),
        ("It is very, bad-ish", "word_list.bad_words"),
        ("so utterly   Awful it was", "word_list.bad_words"),
        ("utterly not awful", "kept"),
    ],
)
def test_word_list(text, name):
    assert rule(WordList(frozenset({"bad", "utterly awful"}))(document(text))) == name


def test_word_list_share_and_file(tmp_path):
    (tmp_path / "list.txt").write_text("\ufeffbad\n\nutterly awful\n", encoding="utf-8")
    step = WordList(read_word_list(tmp_path / "list.txt"), max_share=0.2, rule="toxic")
    assert rule(step(document("bad " + "good " * 4))) == "kept"
    assert rule(step(document("utterly awful " + "good " * 7))) == "word_list.toxic"
    assert rule(WordList(frozenset())(document("any"))) == "kept"
