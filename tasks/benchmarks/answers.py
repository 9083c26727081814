"""Question answering: SQuAD, TriviaQA, GSM8K and MMLU, from their own files, the Hub's Parquet files, or TFDS.

Answers are judged as by SQuAD's evaluate-v1.1.py, TriviaQA's triviaqa_evaluation.py and GSM8K's dataset.py. MMLU's evaluate.py
ranks the four letters by log-probability (`rank_classification/accuracy`); `accuracy` is that of generated letters, see
`postprocess.find_letter`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from t5x_like import text_metrics
from t5x_like.cleaning import reading
from t5x_like.cleaning.steps import Dropped
from t5x_like.tasks.benchmarks.benchmark import (
    SEPARATOR,
    Benchmark,
    Layout,
    Row,
    add_answer,
    jsonl_layout,
    parquet_layout,
)
from t5x_like.tasks.synthetic.sampling import make_templates
from t5x_like.text_metrics import postprocess

LETTERS = ("A", "B", "C", "D")
CALCULATED = re.compile(r"<<.*?>>")
TEST = {"train": "train", "test": "test"}


def read_list(path: Path, key: str) -> list:
    """Returns the list under a key of a JSON file.

    Raises:
      ValueError: the file is not a JSON object with this key.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))[key]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not a JSON object with a list {key!r} ({error!r}); download it again") from error


def squad_rows(path: Path) -> Iterator[Row]:
    """Yields a row for each question of SQuAD (Rajpurkar et al. 2016)."""
    for article in read_list(path, "data"):
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                answers = {"text": [answer["text"] for answer in question["answers"]]}
                shared = {"title": article["title"], "context": paragraph["context"]}
                yield shared | {"question": question["question"], "answers": answers}


def squad_example(row: Row) -> dict | Dropped:
    """Returns an example of SQuAD; any of `answers` is correct, and the first is the target."""
    answers = list(dict.fromkeys(row["answers"]["text"]))
    if not answers:
        return Dropped("benchmark.no_label", f"question={row['question']!r} has no answer")
    fields = {name: row[name].strip() for name in ("title", "context", "question")}
    return fields | {"answers": answers, "answer": answers[0]}


def trivia_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a file of TriviaQA (Joshi et al. 2017)."""
    for question in read_list(path, "Data"):
        answer = question.get("Answer", {})
        aliases = {"value": answer.get("Value", ""), "aliases": answer.get("Aliases", [])}
        aliases["normalized_aliases"] = answer.get("NormalizedAliases", [])
        aliases["human_answers"] = answer.get("HumanAnswers", [])
        yield {"question": question["Question"], "answer": aliases}


def trivia_example(row: Row) -> dict | Dropped:
    """Returns an example of TriviaQA; right are its normalised aliases and human answers, as in triviaqa_evaluation.py.

    A file without them has the answer and its aliases.
    """
    answer = row["answer"]
    value = answer["value"]
    if not value or value == "<unk>":
        return Dropped("benchmark.no_label", f"question={row['question']!r} has no answer")
    normalized = [*answer.get("normalized_aliases", ()), *answer.get("human_answers", ())]
    answers = list(dict.fromkeys(normalized or [value, *answer["aliases"]]))
    return {"question": row["question"].strip(), "answers": answers, "answer": value}


def gsm8k_example(row: Row) -> dict | Dropped:
    """Returns an example of GSM8K: the rationale without calculator annotations <<..>>, the number after #### without commas."""
    steps, mark, answer = row["answer"].partition("####")
    if not mark:
        return Dropped("benchmark.no_label", f"answer={row['answer'][-40:]!r} has no ####")
    rationale = CALCULATED.sub("", steps).strip()
    return {"question": row["question"].strip(), "rationale": rationale, "answer": answer.strip().replace(",", "")}


def mmlu_rows(path: Path) -> Iterator[Row | Dropped]:
    """Yields the rows of a CSV file of MMLU (Hendrycks et al. 2021), which has no header: question, four choices, letter."""
    subject = re.sub(r"_(dev|val|test)$", "", path.stem)
    for row in reading.read_csv(path, columns=("question", *LETTERS, "answer")):
        if isinstance(row, Dropped):
            yield row
        else:
            choices = [row[letter] for letter in LETTERS]
            yield {"question": row["question"], "subject": subject, "choices": choices, "answer": row["answer"]}


def mmlu_example(row: Row) -> dict | Dropped:
    """Returns an example of MMLU; the choices are in the fields a to d, and the answer is a letter."""
    choices = {letter.lower(): str(choice).strip() for letter, choice in zip(LETTERS, row["choices"], strict=True)}
    subject = (row.get("subject") or "general knowledge").replace("_", " ")
    return add_answer({"question": row["question"].strip(), "subject": subject, **choices}, row["answer"], LETTERS)


SQUAD = Benchmark(
    squad_example,
    make_templates(
        "{{ context }}\n\n{{ question }}",
        "Answer with words of the text.\nText: {{ context }}\nQuestion: {{ question }}",
        "{{ question }}\nFind the answer in this part of an article on {{ title }}.\n{{ context }}",
        "Article: {{ title }}\n{{ context }}\nQ: {{ question }}\nA:",
    ),
    (text_metrics.squad,),
    (
        Layout({"train": "squad/train-v1.1.json", "validation": "squad/dev-v1.1.json"}, squad_rows),
        parquet_layout("squad"),
    ),
    "reading",
    "squad/v1.1",
    postprocess=postprocess.select_answers,
)

TRIVIA_QA = Benchmark(
    trivia_example,
    make_templates(
        "{{ question }}",
        "Answer this question of a quiz. {{ question }}",
        "Question: {{ question }}\nAnswer:",
        "Q: {{ question }}\nA:",
    ),
    (text_metrics.trivia_qa,),
    (
        Layout(
            {"train": "trivia_qa/**/unfiltered-web-train.json", "validation": "trivia_qa/**/unfiltered-web-dev.json"},
            trivia_rows,
        ),
        parquet_layout("trivia_qa/unfiltered.nocontext"),
    ),
    "closed_book",
    "trivia_qa/unfiltered.nocontext",
    postprocess=postprocess.select_answers,
)

GSM8K = Benchmark(
    gsm8k_example,
    make_templates(
        "{{ question }}",
        "Solve this problem and give the number. {{ question }}",
        "Problem: {{ question }}\nAnswer:",
        "{{ question }}\nWhich number is the answer?",
    ),
    (text_metrics.number_match,),
    (jsonl_layout("gsm8k", TEST), parquet_layout("gsm8k/main", TEST)),
    "arithmetic",
    "gsm8k",
    TEST,
    stops=(SEPARATOR, "Question:"),  # lm-evaluation-harness, gsm8k.yaml
)

MMLU_SPLITS: Mapping[str, str] = {
    "train": "auxiliary_train",
    "dev": "dev",
    "validation": "validation",
    "test": "test",
}
MMLU = Benchmark(
    mmlu_example,
    make_templates(
        "{{ question }}\nA. {{ a }}\nB. {{ b }}\nC. {{ c }}\nD. {{ d }}\nAnswer:",
        "A question on {{ subject }}. Give the letter of the answer.\n{{ question }}\n"
        "A) {{ a }}\nB) {{ b }}\nC) {{ c }}\nD) {{ d }}",
        "Question: {{ question }}\nChoices:\nA: {{ a }}\nB: {{ b }}\nC: {{ c }}\nD: {{ d }}\nA, B, C or D?",
        choices=LETTERS,
    ),
    (text_metrics.accuracy,),
    (
        Layout(
            {
                "train": "mmlu/**/auxiliary_train/*.csv",
                "dev": "mmlu/**/dev/*_dev.csv",
                "validation": "mmlu/**/val/*_val.csv",
                "test": "mmlu/**/test/*_test.csv",
            },
            mmlu_rows,
        ),
        parquet_layout("mmlu/all", MMLU_SPLITS),
    ),
    "knowledge",
    splits=MMLU_SPLITS,
    postprocess=postprocess.find_letter,
    ranked=True,
)

BENCHMARKS = {"squad_v1": SQUAD, "trivia_qa": TRIVIA_QA, "gsm8k": GSM8K, "mmlu": MMLU}
