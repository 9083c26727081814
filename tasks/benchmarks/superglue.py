"""The eight tasks of SuperGLUE (Wang et al. 2019), from its JSONL files, the Hub's Parquet files, or TFDS.

The metrics are SuperGLUE's, computed from text as T5 does (t5/data/glue_utils.py, t5/evaluation/metrics.py): an answer counts
only if it is a label, letter by letter; F1 of CB is the mean over its three classes, F1a of MultiRC counts any other text as
the wrong label; ReCoRD has SQuAD's EM and F1. WSC is the classification of SuperGLUE, not T5's naming of the referent.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

from t5x_like import text_metrics
from t5x_like.cleaning.steps import Dropped
from t5x_like.tasks.benchmarks.benchmark import Benchmark, Layout, Row, add_answer, parquet_layout, read_records
from t5x_like.tasks.benchmarks.glue import ACCURACY, ENTAILED, NO_YES, classification_example
from t5x_like.tasks.synthetic.sampling import make_templates
from t5x_like.text_metrics import group_metrics, postprocess

YES_NO = ("yes", "no")
COMMITMENT = ("entailment", "contradiction", "neutral")


def read_flattened(path: Path, flatten: Callable[[Row], Iterator[dict]]) -> Iterator[Row | Dropped]:
    """Yields the rows of a JSONL file; `flatten` yields the rows of one line."""
    for row in read_records(path):
        yield from (row,) if isinstance(row, Dropped) else flatten(row)


def jsonl_layout(folder: str, flatten: Callable[[Row], Iterator[dict]] | None = None) -> Layout:
    """Returns SuperGLUE's layout: FOLDER/train.jsonl and FOLDER/val.jsonl."""
    names = {"train": "train.jsonl", "validation": "val.jsonl"}
    read = read_records if flatten is None else functools.partial(read_flattened, flatten=flatten)
    return Layout({split: f"super_glue/{folder}/{name}" for split, name in names.items()}, read)


def copa_example(row: Row) -> dict | Dropped:
    """Returns an example of COPA; the answer is the text of the more plausible choice."""
    fields = {name: row[name] for name in ("premise", "question")}
    fields |= {name: row[name].strip() for name in ("choice1", "choice2")}
    return add_answer(fields, row["label"], (fields["choice1"], fields["choice2"]), ("choice1", "choice2"))


def multirc_rows(row: Row) -> Iterator[dict]:
    """Yields a row of MultiRC for each answer to each question about a paragraph."""
    for question in row["passage"]["questions"]:
        for answer in question["answers"]:
            yield {
                "paragraph": row["passage"]["text"],
                "question": question["question"],
                "answer": answer["text"],
                "label": answer.get("label", -1),
                "idx": {"paragraph": row["idx"], "question": question["idx"], "answer": answer["idx"]},
            }


def multirc_example(row: Row) -> dict | Dropped:
    """Returns an example of MultiRC; `group` identifies the question, `given` is the answer to classify."""
    fields = {"paragraph": row["paragraph"], "question": row["question"], "given": row["answer"]}
    group = f"{row['idx']['paragraph']} {row['idx']['question']}"
    return add_answer(fields | {"group": group}, row["label"], NO_YES)


def record_rows(row: Row) -> Iterator[dict]:
    """Yields a row of ReCoRD for each query about a passage; entities are spans of its text, with inclusive ends."""
    text = row["passage"]["text"]
    entities = dict.fromkeys(text[span["start"] : span["end"] + 1] for span in row["passage"]["entities"])
    for query in row["qas"]:
        answers = dict.fromkeys(answer["text"] for answer in query.get("answers", ()))
        yield {"passage": text, "query": query["query"], "entities": list(entities), "answers": list(answers)}


def record_example(row: Row) -> dict | Dropped:
    """Returns an example of ReCoRD; any of `answers` is correct, and each highlight of the passage is on its own line."""
    answers, entities = ([" ".join(one.split()) for one in row[field]] for field in ("answers", "entities"))
    if not answers:
        return Dropped("benchmark.no_label", "answers=[] of a test set")
    passage = row["passage"].replace("\n@highlight\n", "\n- ")
    options = list(dict.fromkeys([*entities, *answers]))
    query = row["query"].replace("@placeholder", "____")
    return {"passage": passage, "query": query, "options": options, "answers": answers, "answer": answers[0]}


def wsc_rows(row: Row) -> Iterator[dict]:
    """Yields the row of WSC with the fields of `target` moved to the top level."""
    yield {name: value for name, value in row.items() if name != "target"} | row["target"]


def wsc_example(row: Row) -> dict | Dropped:
    """Returns an example of WSC; the pronoun is marked by asterisks in `text`."""
    words = row["text"].split(" ")
    place = row["span2_index"]
    words[place : place + 1] = [f"*{words[place]}*"]
    fields = {"text": " ".join(words), "name": row["span1_text"], "pronoun": row["span2_text"]}
    return add_answer(fields, row["label"], NO_YES)


boolq = Benchmark(
    functools.partial(classification_example, fields=("question", "passage"), answers=NO_YES),
    make_templates(
        "{{ passage }}\nQuestion: {{ question }}? Answer yes or no.",
        "{{ question }}?\nSay yes or no from this text.\n{{ passage }}",
        "Text: {{ passage }}\nAccording to it, {{ question }} (yes or no)?",
        choices=NO_YES,
    ),
    ACCURACY,
    (jsonl_layout("BoolQ"), parquet_layout("super_glue/boolq")),
    "reading_yes_no",
    "super_glue/boolq",
)

cb = Benchmark(
    functools.partial(classification_example, fields=("premise", "hypothesis"), answers=COMMITMENT),
    make_templates(
        "{{ premise }}\nDoes it follow that {{ hypothesis }}\nAnswer entailment, neutral or contradiction.",
        "Text: {{ premise }}\nClaim: {{ hypothesis }}\nentailment, contradiction or neutral?",
        "How does the claim relate to the text (contradiction, entailment, neutral)?\n{{ premise }}\nClaim: {{ hypothesis }}",
        choices=COMMITMENT,
    ),
    (text_metrics.accuracy, functools.partial(text_metrics.macro_f1, classes=COMMITMENT)),
    (jsonl_layout("CB"), parquet_layout("super_glue/cb")),
    "inference",
    "super_glue/cb",
)

copa = Benchmark(
    copa_example,
    make_templates(
        "{{ premise }}\nWhat is the {{ question }}?\n- {{ choice1 }}\n- {{ choice2 }}",
        "Choose the likelier {{ question }} of this: {{ premise }}\n1. {{ choice1 }}\n2. {{ choice2 }}",
        "{{ choice1 }}\n{{ choice2 }}\nWhich of the two is the {{ question }} here: {{ premise }}",
        choices="{{ choice1 }}\n{{ choice2 }}",
    ),
    ACCURACY,
    (jsonl_layout("COPA"), parquet_layout("super_glue/copa")),
    "causes",
    "super_glue/copa",
)

multirc = Benchmark(
    multirc_example,
    make_templates(
        "{{ paragraph }}\nQuestion: {{ question }}\nIs {{ given }} a right answer? yes or no?",
        "{{ question }}\nAnswer: {{ given }}\nJudge it by this text, yes or no.\n{{ paragraph }}",
        "Text: {{ paragraph }}\nQuestion: {{ question }}\nAnswer: {{ given }}\nRight (yes or no)?",
        choices=NO_YES,
    ),
    (group_metrics.group_exact_match, group_metrics.group_f1),
    (jsonl_layout("MultiRC", multirc_rows), parquet_layout("super_glue/multirc")),
    "reading_yes_no",
    "super_glue/multirc",
    postprocess=postprocess.add_group,
)

record = Benchmark(
    record_example,
    make_templates(
        "{{ passage }}\n\n{{ query }}\nWhich name belongs in the place of ____?",
        "Fill in ____ with a name from the text.\n{{ passage }}\n\n{{ query }}",
        "Text: {{ passage }}\nSentence: {{ query }}\nNames: {{ options | join(', ') }}\nThe one that is ____:",
        choices="{{ options | join('\\n') }}",
    ),
    (text_metrics.squad,),
    (jsonl_layout("ReCoRD", record_rows), parquet_layout("super_glue/record")),
    "reading",
    "super_glue/record",
    postprocess=postprocess.select_answers,
)

rte = Benchmark(
    functools.partial(classification_example, fields=("premise", "hypothesis"), answers=YES_NO, names=ENTAILED),
    make_templates(
        "{{ premise }}\nDoes it follow that {{ hypothesis }}\nAnswer yes or no.",
        "Text: {{ premise }}\nClaim: {{ hypothesis }}\nIs the claim true according to the text (yes or no)?",
        "If {{ premise }}\nthen {{ hypothesis }}\nyes or no?",
        choices=YES_NO,
    ),
    ACCURACY,
    (jsonl_layout("RTE"), parquet_layout("super_glue/rte")),
    "inference",
    "super_glue/rte",
)

wic = Benchmark(
    functools.partial(classification_example, fields=("word", "sentence1", "sentence2"), answers=NO_YES),
    make_templates(
        "{{ sentence1 }}\n{{ sentence2 }}\nDoes {{ word }} mean the same in both? yes or no?",
        "Is the word {{ word }} used in the same sense (yes or no)?\n1. {{ sentence1 }}\n2. {{ sentence2 }}",
        "Word: {{ word }}\nFirst: {{ sentence1 }}\nSecond: {{ sentence2 }}\nThe same meaning, yes or no?",
        choices=NO_YES,
    ),
    ACCURACY,
    (jsonl_layout("WiC"), parquet_layout("super_glue/wic")),
    "word_sense",
    "super_glue/wic",
)

wsc = Benchmark(
    wsc_example,
    make_templates(
        "{{ text }}\nDoes *{{ pronoun }}* stand for {{ name }}? Answer yes or no.",
        "Is {{ name }} meant by the word between stars (yes or no)?\n{{ text }}",
        "Text: {{ text }}\nThe pronoun *{{ pronoun }}* is {{ name }}: yes or no?",
        choices=NO_YES,
    ),
    ACCURACY,
    (jsonl_layout("WSC", wsc_rows), parquet_layout("super_glue/wsc")),
    "coreference",
    "super_glue/wsc.fixed",
)

BENCHMARKS = {
    "super_glue_boolq": boolq,
    "super_glue_cb": cb,
    "super_glue_copa": copa,
    "super_glue_multirc": multirc,
    "super_glue_record": record,
    "super_glue_rte": rte,
    "super_glue_wic": wic,
    "super_glue_wsc": wsc,
}
