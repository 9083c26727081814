"""Planted copies (exact, near, by line, of test items) are found and counted."""

import random

import numpy as np
import pytest

from t5x_like.cleaning.contamination import Decontaminate, measure_overlap
from t5x_like.cleaning.dedup import ExactDedup, LineDedup
from t5x_like.cleaning.minhash import MinHash, NearDedup, jaccard
from t5x_like.cleaning.pipeline import Pipeline
from t5x_like.cleaning.report import Report
from tests.cleaning.planted import WORDS, document, prose, rule, text


def run(step, documents) -> tuple[list[str], Report]:
    """(ids that are kept, the report)."""
    report = Report()
    return [document["id"] for document in Pipeline((step,))(documents, report)], report


def test_exact_copies_in_any_case_and_spacing():
    copies = ["One  two.", "one two.\n", "One two!", "ONE\nTWO."]
    kept, report = run(ExactDedup(), [document(copy, f"d{number}") for number, copy in enumerate(copies)])
    assert kept == ["d0", "d2"]
    assert report.dropped == {"exact_dedup.copy": 2}
    assert report.to_dict()["examples"]["exact_dedup.copy"][0]["detail"] == "of d0"


def test_each_run_has_its_own_memory():
    step = ExactDedup()
    assert run(step, [document("a b")])[0] == run(step, [document("a b")])[0] == ["x"]


def test_lines_seen_before_are_removed():
    step = LineDedup(min_words_left=2).start()
    assert (
        text(step(document("The first of 10 lines.\nmenu\nOwn words here.")))
        == "The first of 10 lines.\nmenu\nOwn words here."
    )
    second = step(document("the first of 99 lines\nmenu\nOther words here.\nOther words here."))
    assert second.document["text"] == "menu\nOther words here." and second.counts == {"line_dedup.line": 2}
    dropped = step(document("THE FIRST OF 11 LINES\nmenu"))
    assert rule(dropped) == "line_dedup.words_left" and dropped.detail == "1 of 2 lines were seen before"


def test_lines_of_a_dropped_document_are_not_seen():
    step = LineDedup(min_words_left=5).start()
    assert rule(step(document("Only four words here"))) == "line_dedup.words_left"
    assert rule(step(document("Only four words here\nand then some more of them"))) == "kept"


def shared(words: int, edits: int, rng: random.Random) -> tuple[list[str], list[str]]:
    """A text's words, and the same with `edits` of them replaced."""
    one = rng.choices(WORDS, k=words)
    other = list(one)
    for place in rng.sample(range(words), edits):
        other[place] = f"new{rng.random()}".replace(".", "")
    return one, other


def true_jaccard(one: list[str], other: list[str], n: int = 5) -> float:
    """Of the sets of n-grams."""
    left, right = ({tuple(words[i : i + n]) for i in range(len(words) - n + 1)} for words in (one, other))
    return len(left & right) / len(left | right)


@pytest.mark.parametrize("hashes", [112, 448])
def test_minhash_error_is_binomial(hashes):
    """Over 200 pairs: no bias, and the standard deviation sqrt(J (1 - J) / hashes)."""
    rng, minhash, scores = random.Random(1), MinHash(hashes=hashes), []
    for _ in range(200):
        one, other = shared(200, rng.choice((2, 5, 10, 20)), rng)
        exact = true_jaccard(one, other)
        estimate = jaccard(minhash.signature(" ".join(one)), minhash.signature(" ".join(other)))
        scores.append((estimate - exact) / np.sqrt(exact * (1 - exact) / hashes))
    assert abs(np.mean(scores)) < 4 / np.sqrt(200)
    assert 0.8 < np.std(scores) < 1.2
    assert np.abs(scores).max() < 4.5


def test_minhash_of_short_texts():
    minhash = MinHash()
    assert jaccard(minhash.signature("one two"), minhash.signature("One, two.")) == 1
    assert jaccard(minhash.signature("one two"), minhash.signature("two one")) < 0.1
    assert (minhash.signature("...") == 2**32 - 1).all()


def test_near_copies_are_found_and_nothing_else():
    """At least 90% of 150 planted copies of J >= 0.8 are found (the bands find 92% at 0.8), and none of 300 others."""
    rng, documents, copies = random.Random(2), [], 0
    for number in range(150):
        one, other = shared(300, rng.choice((1, 2, 3, 5)), rng)
        assert true_jaccard(one, other) >= 0.8
        copies += 1
        documents += [document(" ".join(one), f"first{number}"), document(" ".join(other), f"copy{number}")]
        distinct, unlike = shared(300, 40, rng)
        assert true_jaccard(distinct, unlike) < 0.6
        documents += [document(" ".join(distinct), f"first-b{number}"), document(" ".join(unlike), f"unlike{number}")]
    kept, report = run(NearDedup(), documents)
    dropped = {document["id"] for document in documents} - set(kept)
    assert all(name.startswith("copy") for name in dropped)  # precision 1
    assert len(dropped) / copies >= 0.9
    assert report.dropped == {"near_dedup.copy": len(dropped)}


def test_bands_must_divide_hashes():
    with pytest.raises(ValueError, match="bands=13 does not divide hashes=112; use 14 bands"):
        NearDedup(bands=13)


def words(count: int, seed: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=count))


ITEMS = {f"item{seed}": words(30, 1000 + seed) for seed in range(20)} | {
    "short": "one two three four five six seven eight"
}


def part(name: str, first: int, count: int) -> str:
    """Some words of an item, with other case and punctuation."""
    return ", ".join(ITEMS[name].upper().split()[first : first + count])


@pytest.mark.parametrize(
    ("planted", "name"),
    [
        (part("item3", 5, 13), "contamination.ngram"),
        (part("item3", 5, 12), "kept"),
        ("One; two; three -- four five six SEVEN eight", "contamination.ngram"),
        ("One; two; three -- four five six SEVEN", "kept"),
    ],
)
def test_thirteen_words_of_an_item(planted, name):
    assert rule(Decontaminate(ITEMS).start()(document(f"{prose(1)} {planted} {prose(2)}"))) == name


def test_planted_items_are_found_and_nothing_else():
    clean = [document(words(300, seed), f"clean{seed}") for seed in range(100)]
    dirty = [document(f"{words(100, 500 + n)} {ITEMS[f'item{n}']}", f"dirty{n}") for n in range(20)]
    kept, _ = run(Decontaminate(ITEMS), [*clean, *dirty])
    assert kept == [document["id"] for document in clean]


def test_overlap_report():
    half = document(f"{words(50, 1)} {part('item0', 0, 19)} {words(50, 2)}")
    found = measure_overlap([document(ITEMS["item1"]), half], {**ITEMS, "tiny": "two words"})
    assert found[13]["item1"] == found[8]["item1"] == 1
    assert found[13]["item0"] == pytest.approx(7 / 18)  # 19 words hold 7 of the 18 13-grams, and 12 of the 23 8-grams
    assert found[8]["item0"] == pytest.approx(12 / 23)
    assert found[13]["item2"] == found[8]["short"] == 0
    assert np.isnan(found[13]["tiny"])
