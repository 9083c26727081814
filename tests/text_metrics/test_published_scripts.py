"""Metrics give the values of the published evaluation scripts, on garbage, run-on text, empty answers and swapped labels.

The values were computed by T5's t5/evaluation/metrics.py (with its postprocessors), TriviaQA's triviaqa_evaluation.py and GSM8K's
grade_school_math/dataset.py.
"""

import functools

import pytest

from t5x_like import text_metrics as tm
from t5x_like.prompting.renderings import extract_answer
from t5x_like.text_metrics import postprocess
from t5x_like.text_metrics.group_metrics import group_exact_match, group_f1
from t5x_like.text_metrics.postprocess import strip

F1 = functools.partial(tm.f1, positive="yes", negative="no")
CB = functools.partial(tm.macro_f1, classes=("entailment", "contradiction", "neutral"))
COLA = functools.partial(tm.matthews_correlation, classes=("unacceptable", "acceptable"))
SWAPPED = {"yes": "no", "acceptable": "unacceptable", "entailment": "contradiction"}
SWAPPED |= {new: old for old, new in SWAPPED.items()}


@pytest.mark.parametrize(
    ("metric", "targets", "predictions", "value", "swapped"),
    [
        (F1, ["yes"] * 4 + ["no"] * 4, ["yes"] * 4 + ["the same", "maybe", "yes it", ""], 66.666667, 0),
        (F1, ["no", "yes", "yes", "no", "yes"], ["no", "", "YES", "yes", "yes\n\nyes"], 0, 33.333333),
        (F1, ["no", "no"], ["", ""], 0, 0),
        (
            CB,
            ["entailment"] * 4 + ["contradiction"] * 4,
            ["entailment"] * 3 + ["it follows"] + ["contradiction"] * 2 + ["contradicts", "no"],
            50.793651,
            0,
        ),
        (CB, ["entailment", "neutral", "contradiction"], ["neutral", "", "neutral. So"], 0, 0),
        (
            COLA,
            ["acceptable"] * 4 + ["unacceptable"] * 3,
            ["acceptable", "acceptable", "yes", "", "unacceptable", "unacceptable", "no"],
            50.518149,
            -50.518149,
        ),
        (COLA, ["acceptable", "unacceptable", "acceptable"], ["x", "y", "z"], 0, 0),
    ],
)
def test_answers_that_are_no_label(metric, targets, predictions, value, swapped):
    assert list(metric(targets, predictions).values()) == [pytest.approx(value)]
    others = [SWAPPED.get(target, target) for target in targets]
    assert list(metric(others, predictions).values()) == [pytest.approx(swapped)]


def test_multirc():
    targets = [{"group": i // 2, "value": "yes" if i % 2 else "no"} for i in range(8)]
    predictions = ["no", "yes", "perhaps", "yes", "no", "", "yes it is", "yes"]
    assert group_f1(targets, predictions) == {"f1a": pytest.approx(66.666667)}
    assert group_exact_match(targets, predictions) == {"em": 25}


def test_f1_refuses_targets_of_other_classes():
    with pytest.raises(ValueError, match="targets have 'yes', but positive=1 and negative=0"):
        tm.f1(["yes"], ["no"])


@pytest.mark.parametrize(
    ("answers", "prediction", "squad", "trivia"),
    [
        (["The cat!", "a dog"], "cat", (100, 100), (100, 100)),
        (["New York City"], "york", (0, 50), (0, 50)),
        (["the"], "a", (100, 0), (100, 0)),
        (["Berlin"], "", (0, 0), (0, 0)),
        (["Berlin"], "Berlin\n\nQuestion: Who? Otto", (0, 40), (0, 40)),
        (["b c"], "b b the", (0, 50), (0, 50)),
        (["Spider Man"], "spider-man", (0, 0), (100, 100)),
        (["rock n roll"], "The rock_‘n’ roll", (0, 40), (100, 100)),
    ],
)
def test_questions(answers, prediction, squad, trivia):
    for metric, (em, f1) in ((tm.squad, squad), (tm.trivia_qa, trivia)):
        assert metric([answers], [prediction]) == {"em": em, "f1": pytest.approx(f1)}


def test_a_question_without_answers_wants_an_empty_prediction():
    assert tm.squad([[], []], ["", "Berlin"]) == {"em": 50, "f1": 50}


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("5 + 6 = 11\n#### 11\n\nQuestion: 2 x 4?\n#### 8", True),
        ("#### 12\n\nQuestion: 10 + 1?\n#### 11", False),
        ("He makes $ 11.\n#### 11", True),
        ("#### 1,1", True),
        ("#### 11 apples", True),
        ("####11", False),
        ("#### $11", False),
        ("#### 11.", False),
        ("#### 11.0", False),
        ("#### -11", False),
        ("#### abc 11", False),
        ("#### \n11", False),
        ("The answer is 11", False),
        ("11", False),
        ("", False),
    ],
)
def test_gsm8k(text, right):
    assert tm.number_match(["5 + 6 = 11\n#### 11"], [text])["exact_match"] == 100 * right
    if "####" in text:
        assert tm.number_match(["11"], [text])["exact_match"] == 100 * right


def test_similarities_are_numbers_or_minus_one():
    texts = ["1.2", "very similar: 4.0", " 2.5\n", "4.8", "", "nan", "inf"]
    assert [postprocess.parse_number(text) for text in texts] == [1.2, -1, 2.5, 4.8, -1, -1, -1]
    predictions = [postprocess.parse_number(text) for text in texts[:4]]
    assert tm.pearson([1.0, 4.0, 2.5, 5.0], predictions) == {"pearson": pytest.approx(31.494072)}
    assert tm.spearman([1.0, 4.0, 2.5, 5.0], predictions) == {"spearman": pytest.approx(40)}


def test_rouge_splits_sentences_as_t5_does():
    pytest.importorskip("rouge_score")
    target = "the ship left the port at dawn .\nits crew had slept for two hours .\nthe storm came from the north ."
    prediction = "the storm came from the north . the ship left the port at dawn . nobody had slept ."
    made = tm.rouge([target], [prediction])
    assert made["rougeLsum"] == pytest.approx(83.333333) and made["rouge2"] == pytest.approx(70.588235)


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(C)", "C"),
        ("D. 4", "D"),
        ("B\nC", "B"),
        ("The answer is (C) and not D.", "C"),
        ("The answer is B", "B"),
        ("A cow flies, so B", ""),
        ("I think B", ""),
        ("BC", ""),
        ("b", ""),
        ("", ""),
    ],
)
def test_letters(text, letter):
    assert postprocess.find_letter(text) == letter


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("9 + 1 is 10.\nThe answer is 12\n\nQ: 1 + 1?\nThe answer is 2", "12"),
        ("So it is 12. The answer is 12", "12"),
        ("The answer is 12\nQ: 1 + 1?", "12"),
        ("12", "12"),
        ("", ""),
    ],
)
def test_the_first_answer_after_a_chain_of_thought_counts(text, answer):
    assert extract_answer(text) == answer


def test_a_prediction_ends_at_a_stop_and_a_target_does_not():
    assert strip("yes\n\nIs it?\nno", stops=["\n\n"]) == "yes"
    assert strip("a\n\nb ", is_target=True, stops=["\n\n"]) == "a\n\nb"
    assert postprocess.find_letter("B\n\nThe answer is C", stops=["\n\n"]) == "B"
    assert postprocess.parse_number("2.5\n\n3", stops=["\n\n"]) == 2.5
    assert postprocess.select_answers("a\n\nb", {"answers": ["c"]}, stops=["\n\n"]) == "a"
    assert postprocess.add_group("yes\n\nno", {"group": 1}, stops=["\n\n"]) == "yes"
