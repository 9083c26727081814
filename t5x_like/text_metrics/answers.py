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
MARKED = re.compile(r"#### (-?[0-9.,]+)")  # GSM8K's
MARK = "####"
NUMBER = re.compile(r"(?<![\w.])[-+−]?\$?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)")


def normalize_squad(text: str) -> str:
    """Lower case without punctuation, articles and extra spaces (Rajpurkar et al. 2016, evaluate-v1.1)."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(SQUAD_PUNCTUATION)).split())


def normalize_trivia(text: str) -> str:
    """As SQuAD's, but punctuation becomes a space (Joshi et al. 2017, triviaqa_evaluation.py)."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(TRIVIA_PUNCTUATION)).split())


def token_f1(target: str, prediction: str) -> float:
    """Harmonic mean of the precision and recall of words, with counts (0-1); 0 without common words."""
    expected, words = target.split(), prediction.split()
    same = (Counter(expected) & Counter(words)).total()
    return 2 * same / (len(expected) + len(words)) if same else 0.0


def score_answers(targets: Sequence, predictions: Sequence[str], normalize: Callable[[str], str]) -> dict[str, float]:
    """Exact match and F1 with the best of each example's answers; without answers, only the empty prediction is right."""
    em, best = [], []
    for target, prediction in zip(*check_pairs(targets, predictions), strict=True):
        answers, text = [normalize(answer) for answer in list_answers(target)], normalize(prediction)
        em.append(text in answers if answers else not text)
        best.append(max(token_f1(answer, text) for answer in answers) if answers else float(not text))
    return {"em": percent(em), "f1": percent(best)}


def squad(targets: Sequence, predictions: Sequence[str]) -> dict[str, float]:
    """`em` and `f1` in percent as SQuAD's evaluate-v1.1.py (and T5) has them; a target is an answer or several answers.

    A target without answers is an unanswerable question, as in evaluate-v2.0.py: right if the prediction is empty.
    """
    return score_answers(targets, predictions, normalize_squad)


def trivia_qa(targets: Sequence, predictions: Sequence[str]) -> dict[str, float]:
    """`em` and `f1` in percent as TriviaQA's triviaqa_evaluation.py (and T5) has them; a target is an answer or its aliases."""
    return score_answers(targets, predictions, normalize_trivia)


def knowledge_f1(targets: Sequence, predictions: Sequence[str]) -> dict[str, float]:
    """Word F1 of responses with their source knowledge, in percent (Shuster et al. 2021)."""
    return {"knowledge_f1": score_answers(targets, predictions, normalize_squad)["f1"]}


def exact_match(targets: Sequence, predictions: Sequence[str]) -> dict[str, float]:
    """Percent of predictions that equal one of their answers, ignoring space around them."""
    pairs = zip(*check_pairs(targets, predictions), strict=True)
    hits = [prediction.strip() in [answer.strip() for answer in list_answers(target)] for target, prediction in pairs]
    return {"exact_match": percent(hits)}


def find_marked(text: str) -> str | None:
    """The number after the first "#### ", without commas; None if there is none (GSM8K's `extract_answer`)."""
    match = MARKED.search(text)
    return None if match is None else match.group(1).replace(",", "")


def find_final_number(text: str) -> Fraction | None:
    """The number that a text gives as its answer; ignores commas and $.

    It is the one that GSM8K's script finds if the text has "####". Otherwise it is the first number on the line after the
    first "answer is" (lm-evaluation-harness, gsm8k_cot), or after the last "\\boxed{" (MATH), or the last number of the text
    (lm-evaluation-harness, flexible-extract).
    """
    if MARK in text:
        return to_fraction(find_marked(text) or "")
    for _, mark, rest in (text.partition("answer is"), text.rpartition("\\boxed{")):
        if mark and (match := NUMBER.search(rest.split("\n")[0])):
            return to_fraction(match.group())
    return to_fraction(next((match.group() for match in reversed(list(NUMBER.finditer(text)))), ""))


def to_fraction(number: str) -> Fraction | None:
    """The value of a number in digits; None if it is none."""
    try:
        return Fraction(re.sub(r"[$,+]", "", number).replace("−", "-"))
    except ValueError:
        return None


def number_match(targets: Sequence, predictions: Sequence[str]) -> dict[str, float]:
    """Percent of answers that are the right number, and of predictions that contain an answer.

    A target is a text (GSM8K's `#### 1,234` or a bare number) or a number. If a target or a prediction has "####", the pair is
    judged as GSM8K's own script does (Cobbe et al. 2021, grade_school_math/dataset.py): the texts of the numbers after the
    first "#### " are equal without commas. Otherwise the numbers that `find_final_number` finds are equal.

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
        if MARK in prediction or MARK in str(target):
            marked = find_marked(prediction)
            hits.append(marked == (find_marked(str(target)) or str(target).strip().replace(",", "")))
            answered.append(marked is not None)
        else:
            hits.append(expected == number)
            answered.append(number is not None)
    return {"exact_match": percent(hits), "answered": percent(answered)}
