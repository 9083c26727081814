"""Answers to questions: exact match and token F1 after normalisation, and final numbers. All in percent."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from fractions import Fraction

from t5x_like.text_metrics.pairs import check_pairs, list_answers, percent

ARTICLES = re.compile(r"\b(a|an|the)\b")
SQUAD_PUNCTUATION = str.maketrans("", "", string.punctuation)
TRIVIA_PUNCTUATION = str.maketrans(dict.fromkeys(string.punctuation + "‘’´`", " "))
NUMBER = re.compile(r"(?<![\w.])[-+−]?\$?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)")
MARKS = ("####", "\\boxed{", "answer is")


def normalize_squad(text: str) -> str:
    """Lower case without punctuation, articles and extra spaces (Rajpurkar et al. 2016, evaluate-v1.1)."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(SQUAD_PUNCTUATION)).split())


def normalize_trivia(text: str) -> str:
    """As SQuAD's, but punctuation becomes a space (Joshi et al. 2017, triviaqa_evaluation.py)."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(TRIVIA_PUNCTUATION)).split())


def token_f1(target: str, prediction: str) -> float:
    """Harmonic mean of the precision and recall of words, with counts (0-1); 1 for two empty texts (SQuAD 2.0)."""
    expected, words = target.split(), prediction.split()
    if not expected or not words:
        return float(expected == words)
    same = (Counter(expected) & Counter(words)).total()
    return 2 * same / (len(expected) + len(words))


def score_answers(targets: Sequence, predictions: Sequence[str], normalize: Callable[[str], str]) -> dict[str, float]:
    """Exact match and F1 with the best of each example's answers; no answers mean the empty answer."""
    em, best = [], []
    for target, prediction in zip(*check_pairs(targets, predictions), strict=True):
        answers = [normalize(answer) for answer in list_answers(target)] or [""]
        # SQuAD 2.0 drops answers that normalise to nothing if there are others.
        answers = [answer for answer in answers if answer] or [""]
        text = normalize(prediction)
        em.append(text in answers)
        best.append(max(token_f1(answer, text) for answer in answers))
    return {"em": percent(em), "f1": percent(best)}


def squad(targets: Sequence, predictions: Sequence[str]) -> dict[str, float]:
    """`em` and `f1` in percent; a target is an answer, several answers, or none for an unanswerable question."""
    return score_answers(targets, predictions, normalize_squad)


def trivia_qa(targets: Sequence, predictions: Sequence[str]) -> dict[str, float]:
    """`em` and `f1` in percent after TriviaQA's normalisation; a target is an answer or its aliases."""
    return score_answers(targets, predictions, normalize_trivia)


def knowledge_f1(targets: Sequence, predictions: Sequence[str]) -> dict[str, float]:
    """Word F1 of responses with their source knowledge, in percent (Shuster et al. 2021)."""
    return {"knowledge_f1": score_answers(targets, predictions, normalize_squad)["f1"]}


def exact_match(targets: Sequence, predictions: Sequence[str]) -> dict[str, float]:
    """Percent of predictions that equal one of their answers, ignoring space around them."""
    pairs = zip(*check_pairs(targets, predictions), strict=True)
    hits = [prediction.strip() in [answer.strip() for answer in list_answers(target)] for target, prediction in pairs]
    return {"exact_match": percent(hits)}


def find_final_number(text: str) -> Fraction | None:
    """The first number after the last of `MARKS` that has one, else the last number of the text; ignores commas and $."""
    starts = sorted((text.rfind(mark) + len(mark) for mark in MARKS if mark in text), reverse=True)
    match = next((match for start in starts if (match := NUMBER.search(text[start:].split("\n")[0]))), None)
    if match is None:
        match = next(iter(reversed(list(NUMBER.finditer(text)))), None)
    return None if match is None else Fraction(re.sub(r"[$,+]", "", match.group()).replace("−", "-"))


def number_match(targets: Sequence, predictions: Sequence[str]) -> dict[str, float]:
    """Percent of final numbers that are equal (GSM8K, Cobbe et al. 2021), and of predictions that contain a number.

    A target is a text (GSM8K's `#### 1,234` or a bare number) or a number.

    Raises:
      ValueError: a target without a number.
    """
    hits, answered = [], []
    for target, prediction in zip(*check_pairs(targets, predictions), strict=True):
        expected, number = find_final_number(str(target)), find_final_number(prediction)
        if expected is None:
            raise ValueError(
                f"the target {str(target)[:80]!r} has no number in it; give the answer as '#### 42' or '42'"
            )
        hits.append(expected == number)
        answered.append(number is not None)
    return {"exact_match": percent(hits), "answered": percent(answered)}
