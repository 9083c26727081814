"""Published heuristics: for every rule one document just inside and one just outside its bound."""

import random

import numpy as np
import pytest

from t5x_like.cleaning.c4 import C4, count_sentences
from t5x_like.cleaning.classifier_filters import LanguageFilter, QualityFilter
from t5x_like.cleaning.code import CodeQuality
from t5x_like.cleaning.dedup import ExactDedup, LineDedup
from t5x_like.cleaning.duplicate_spans import SpanDedup
from t5x_like.cleaning.fineweb import FineWebQuality
from t5x_like.cleaning.gopher import GopherQuality
from t5x_like.cleaning.repetition import (
    GopherRepetition,
    count_duplicate_characters,
    count_top_characters,
    find_repeated_ngrams,
)
from t5x_like.cleaning.steps import ReadableFilter
from tests.cleaning.growth import is_linear
from tests.cleaning.planted import WORDS, document, prose, rule, text

FIVE = "One is here. Two is here. Three is here. Four is here. Five is here."


BULLET = "- one of the balls is going round\n"
ELLIPSIS = "the ball is going round and round and round...\n"
PLAIN = "and the other one is not going round at all\n"


def letters(count: int, *extra: str) -> str:
    """`count` words: two stop words, `extra`, and words of five letters."""
    fill = [word for word in WORDS if len(word) == 5][: count - len(extra) - 2]
    return " ".join(["the", "and", *extra, *fill])


def filled(size: int, count: int, stop: str = "the and") -> str:
    """`count` words of `size` letters after two stop words."""
    return " ".join([stop, *["x" * size] * count])


GOPHER = [
    ("word_count", letters(50), letters(49)),
    ("word_count", filled(4, 99_998), filled(4, 99_999)),
    ("mean_word_length", filled(3, 60), filled(2, 60)),
    ("mean_word_length", filled(10, 60), filled(11, 600)),
    ("hash_ratio", letters(100, *["a#b"] * 10), letters(100, *["a#b"] * 11)),
    ("ellipsis_ratio", letters(100, *["ab…"] * 10), letters(100, *["ab…"] * 11)),
    ("bullet_lines", BULLET * 45 + PLAIN * 5, BULLET * 46 + PLAIN * 5),
    ("ellipsis_lines", ELLIPSIS * 3 + PLAIN * 7, ELLIPSIS * 4 + PLAIN * 7),
    ("alphabetic_words", letters(100, *["1234"] * 20), letters(100, *["1234"] * 21)),
    ("stop_words", filled(5, 60, "The and"), filled(5, 60, "the the")),
]


@pytest.mark.parametrize(("name", "kept", "dropped"), GOPHER)
def test_gopher_quality(name, kept, dropped):
    assert rule(GopherQuality()(document(kept))) == "kept"
    assert rule(GopherQuality()(document(dropped))) == f"gopher_quality.{name}"


def test_thresholds_are_fields():
    assert rule(GopherQuality(min_words=3)(document("the ball and"))) == "kept"
    assert "allowed at least 50" in GopherQuality()(document("the ball")).detail


def different(count: int, length: int) -> list[str]:
    """Different lines of one length."""
    return ["".join(random.Random(number).choices("abcdefghijklmn", k=length)) for number in range(count)]


@pytest.mark.parametrize(
    ("name", "kept", "dropped"),
    [
        ("lines", ["x"] * 31 + different(69, 9), ["x"] * 32 + different(69, 9)),  # 30 and 31 copies
        ("line_characters", ["x" * 18] * 3 + different(15, 9), ["x" * 18] * 4 + different(15, 9)),
    ],
)
def test_gopher_repetition_of_lines_and_paragraphs(name, kept, dropped):
    for separator, part in (("\n", name), ("\n\n", name.replace("line", "paragraph"))):
        own = separator == "\n"
        step = GopherRepetition(max_lines=0.3 if own else 1, max_line_characters=0.2 if own else 1, top=(), repeated=())
        assert rule(step(document(separator.join(kept)))) == "kept"
        assert rule(step(document(separator.join(dropped)))) == f"gopher_repetition.{part}"


def brute_force_top(words: list[str], n: int) -> int:
    """Characters of the most frequent n-gram as datatrove counts them, if it repeats."""
    grams = [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]
    top = max(grams, key=grams.count, default="")
    return len(top) * grams.count(top) if grams.count(top) > 1 else 0


def brute_force_duplicates(words: list[str], n: int) -> int:
    """Characters of the words covered by n-grams seen before."""
    seen, covered = set(), set()
    for start in range(len(words) - n + 1):
        gram = tuple(words[start : start + n])
        if gram in seen:
            covered.update(range(start, start + n))
        seen.add(gram)
    return sum(len(words[place]) for place in covered)


@pytest.mark.parametrize("seed", range(20))
def test_ngram_counts_equal_their_definitions(seed):
    rng = random.Random(seed)
    words = rng.choices(WORDS[: rng.choice((2, 5, 40))], k=rng.randint(0, 90))
    words += words[5 : rng.randint(5, 60)]
    ends = np.concatenate([[0], np.cumsum([len(word) for word in words])]).astype(np.int64)
    for n, positions, labels in find_repeated_ngrams(words, 10):
        assert count_top_characters(n, positions, labels, ends) == brute_force_top(words, n)
        assert count_duplicate_characters(n, positions, labels, ends) == brute_force_duplicates(words, n)


@pytest.mark.parametrize(("n", "most"), GopherRepetition().top)
def test_gopher_top_ngram(n, most):
    """An n-gram of six-letter words, repeated between unique words, around its bound."""
    gram = ["aaaaaa", "bbbbbb", "cccccc", "dddddd"][:n]
    step = GopherRepetition(top=((n, most),), repeated=())
    others = iter(different(1000, 6))
    body = [word for _ in range(10) for word in (*gram, next(others))]
    while len(" ".join(body)) * most < 10 * (7 * n - 1):
        body.append(next(others))
    assert rule(step(document(" ".join(body)))) == "kept"
    assert rule(step(document(" ".join(body[:-1])))) == f"gopher_repetition.top_{n}_gram"


@pytest.mark.parametrize(("n", "most"), GopherRepetition().repeated)
def test_gopher_duplicate_ngram(n, most):
    step = GopherRepetition(top=(), repeated=((n, most),))
    body = different(n, 6) * 2
    others = iter(different(1000, 6)[n:])
    while len(" ".join(body)) * most < 6 * n:
        body.append(next(others))
    assert rule(step(document(" ".join(body)))) == "kept"
    assert rule(step(document(" ".join(body[:-1])))) == f"gopher_repetition.duplicate_{n}_gram"


@pytest.mark.parametrize(
    ("line", "removed"),
    [
        ("A line with no mark at its end", "c4.line_terminal_mark"),
        ("A line that fades away...", "c4.line_terminal_mark"),
        ("Two words.", "c4.line_words"),
        ("Please enable JavaScript to go on.", "c4.line_javascript"),
        ("This site uses cookies for you.", "c4.line_policy"),
        (f"One long {'x' * 1001} word.", "c4.line_long_word"),
    ],
)
def test_c4_removes_lines(line, removed):
    result = C4()(document(f"{FIVE}\n{line}"))
    assert result.counts == {removed: 1}
    assert result.document == document(FIVE)


@pytest.mark.parametrize(
    "line", ["Now three words.", 'He said "now."', f"One long {'x' * 1000} word.", "Is it so?", "Curly { without end"]
)
def test_c4_keeps_lines(line):
    passed = line[-1] in '.?!"'
    assert text(C4()(document(f"{FIVE}\n{line}"))) == (f"{FIVE}\n{line}" if passed else FIVE)


@pytest.mark.parametrize(
    ("page", "name"),
    [
        (FIVE, "kept"),
        (FIVE.replace(" Five is here.", ""), "c4.sentences"),
        (f"{FIVE}\nHere is {{ code.", "c4.curly_bracket"),
        (f"{FIVE}\nHere is Lorem Ipsum text.", "c4.lorem_ipsum"),
        ("", "c4.sentences"),
    ],
)
def test_c4_pages(page, name):
    assert rule(C4()(document(page))) == name


def test_c4_cuts_citations():
    assert text(C4()(document(FIVE.replace("One", "One[12][citation needed]")))) == FIVE


def test_sentences():
    assert count_sentences("It cost 3.50 in all. He paid! Did she? Yes") == 3
    assert count_sentences("no mark") == 1
    assert count_sentences("We met e.g. at noon.") == 1


LONG = "the line goes on for more than thirty characters here"
LONG_LINES = [f"{LONG} {number}" for number in range(9)]
LONG_ENDED = [f"{LONG} {number:03d}." for number in range(120)]
SHORT_LINES = [f"w{number} is not so very long." for number in range(70)]
WIDE = f"{'x' * 30} {'y' * 20}."


@pytest.mark.parametrize(
    ("name", "kept", "dropped"),
    [
        ("terminal_lines", [*LONG_LINES[:7], f"{LONG}."], [*LONG_LINES[:8], f"{LONG}."]),
        ("short_lines", SHORT_LINES[:67] + LONG_ENDED[:33], SHORT_LINES[:68] + LONG_ENDED[:33]),
        ("duplicate_line_characters", [*LONG_ENDED, LONG_ENDED[0]], [*LONG_ENDED, *LONG_ENDED[:2]]),
        ("line_breaks", [WIDE, WIDE.replace("y", "z y")], [WIDE.replace("x", n) for n in "abcde"]),
    ],
)
def test_fineweb(name, kept, dropped):
    assert rule(FineWebQuality()(document("\n".join(kept)))) == "kept"
    assert rule(FineWebQuality()(document("\n".join(dropped)))) == f"fineweb.{name}"


def test_plain_prose_is_kept_by_all():
    for step in (C4(), GopherQuality(), GopherRepetition(), FineWebQuality()):
        assert rule(step(document(prose(1)))) == "kept"


CONTROL = "\x01" * 10
STEPS = {
    "readable": ReadableFilter(),
    "c4": C4(),
    "gopher_quality": GopherQuality(),
    "gopher_repetition": GopherRepetition(),
    "fineweb": FineWebQuality(),
    "code": CodeQuality(),
    "mean_line": CodeQuality(max_mean_line=49.7),
    "alphanumeric": CodeQuality(min_alphanumeric=0.829),
    "exact_dedup": ExactDedup(),
    "line_dedup": LineDedup(min_words_left=20),
    "span_dedup": SpanDedup(min_words_left=20),
    "language": LanguageFilter(lambda text: ("en" if len(text) % 2 else "fr", 1.0)),
    "quality": QualityFilter(lambda text: len(text) % 3 / 3),
}
# By lines; several are near a bound, which one more character for each line would cross.
LINES = {
    "prose": [line for number in range(6) for line in (*prose(number).split("\n"), "")],
    "copied paragraphs": [line for number in range(10) for line in (LONG_ENDED[number % 7], "")],
    "short lines": SHORT_LINES[:67] + LONG_ENDED[:33],
    "lines of 30": ["a line of thirty characters.\u00e9."] * 2 + LONG_ENDED[:1],
    "a copy at the end": [*LONG_ENDED, "", LONG_ENDED[0]],
    "control characters": [*LONG_ENDED[:17], CONTROL],
    "blank lines": ["", *LONG_ENDED[:9], "", "", LONG_ENDED[0], ""],
}


@pytest.mark.parametrize("lines", LINES.values(), ids=LINES)
@pytest.mark.parametrize("name", STEPS)
def test_carriage_returns_and_blanks_on_empty_lines_change_no_verdict(name, lines):
    def verdicts(text):
        step = STEPS[name].start() if hasattr(STEPS[name], "start") else STEPS[name]
        return [(rule(made), getattr(made, "detail", "")) for made in map(step, [document(text), document(text)])]

    expected = verdicts("\n".join(lines))
    assert verdicts("\r\n".join(lines)) == expected
    assert verdicts("\n".join(line or " \t" for line in lines)) == expected


@pytest.mark.parametrize("unit", ["\n", " \n", "1\n", ". ", '."', "! a", "[1", "\u0301\u0316"])
@pytest.mark.parametrize("name", STEPS)
def test_the_time_of_a_step_is_linear_in_any_text(name, unit):
    def apply(text):
        step = STEPS[name].start() if hasattr(STEPS[name], "start") else STEPS[name]
        return step(document("x" + text))

    assert is_linear(apply, unit * (4_000 // len(unit)))


def test_long_runs_of_combining_marks_are_no_text():
    assert text(ReadableFilter()(document("e" + "\u0301" * 64))) == "\xe9" + "\u0301" * 63
    assert rule(ReadableFilter()(document("e" + "\u0301\u0316" * 33))) == "readable.marks"
