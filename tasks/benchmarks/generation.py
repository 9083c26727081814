"""Texts to be written: WMT, CNN/DailyMail, HumanEval; files as each is distributed, Parquet as the Hub has them, or TFDS."""

import functools
from collections.abc import Iterator
from pathlib import Path

from t5x_like import text_metrics
from t5x_like.cleaning.steps import Dropped
from t5x_like.prompting.templates import Template
from t5x_like.tasks.benchmarks.sets import Benchmark, Files, Row, jsonl, parquet, records
from t5x_like.tasks.synthetic.sampling import worded
from t5x_like.text_metrics import execution, postprocess

LANGUAGES = {"en": "English", "de": "German", "fr": "French", "ro": "Romanian"}
ALL = {"train": "train", "validation": "validation", "test": "test"}
STOPS = ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(")  # what Codex' evaluation stops at


def parallel_rows(path: Path, source: str, target: str) -> Iterator[Row | Dropped]:
    """Two files of the same lines, NAME.en and NAME.de.

    Raises:
      ValueError: one of them is missing or has more lines.
    """
    other = path.with_suffix(f".{target}")
    if not other.is_file():
        raise ValueError(f"{path} has no translation {other} beside it; put both there")
    with open(path, encoding="utf-8") as given, open(other, encoding="utf-8") as wanted:
        try:
            for one, two in zip(given, wanted, strict=True):
                yield {source: one.rstrip("\n"), target: two.rstrip("\n")}
        except ValueError as error:
            raise ValueError(f"{path} and {other} have different numbers of lines; they belong line by line") from error


def translation_example(row: Row, source: str, target: str) -> dict | Dropped:
    """A pair, from TFDS's row or from the Hub's `translation`."""
    pair = row.get("translation", row)
    text, answer = pair[source].strip(), pair[target].strip()
    if not text or not answer:
        return Dropped("benchmark.no_label", f"a side of {source}-{target} is empty")
    return {"text": text, "answer": answer, "from": LANGUAGES[source], "to": LANGUAGES[target]}


TRANSLATION = worded(
    "Translate from {{ from }} to {{ to }}: {{ text }}",
    "{{ text }}\nHow does one say this in {{ to }}?",
    "{{ from }}: {{ text }}\n{{ to }}:",
    "Give the {{ to }} translation of this text.\n{{ text }}",
)


def translation(folder: str, tfds_config: str, source: str, target: str) -> Benchmark:
    """One direction of a language pair of WMT; SPLIT.en and SPLIT.de, or Parquet, in a folder of the pair."""
    pair = f"{folder}/{tfds_config}"
    read = functools.partial(parallel_rows, source=source, target=target)
    return Benchmark(
        functools.partial(translation_example, source=source, target=target),
        TRANSLATION,
        (text_metrics.bleu,),
        (Files({split: f"{pair}/{split}.{source}" for split in ALL}, read), parquet(pair, ALL)),
        "translation",
        f"{folder}_translate/{tfds_config}",
        ALL,
    )


def summary_example(row: Row) -> dict | Dropped:
    article, highlights = row["article"].strip(), row["highlights"].strip()
    if not article or not highlights:
        return Dropped("benchmark.no_label", "article or highlights are empty")
    return {"article": article, "answer": highlights}


CNN_DAILYMAIL = Benchmark(
    summary_example,
    worded(
        "Summarize: {{ article }}",
        "{{ article }}\n\nThe main points are:",
        "Write the highlights of this news article.\n{{ article }}",
        "Article: {{ article }}\nSummary:",
    ),
    (text_metrics.rouge,),
    (
        Files({split: f"cnn_dailymail/{split}.csv" for split in ALL}, records),
        jsonl("cnn_dailymail", ALL),
        parquet("cnn_dailymail", ALL),
    ),
    "summarization",
    "cnn_dailymail",
    ALL,
)


def problem_example(row: Row) -> dict:
    """HumanEval's problem, and its solution as the answer."""
    fields = {name: row[name] for name in ("task_id", "prompt", "entry_point", "test")}
    return fields | {"answer": row["canonical_solution"]}


CODE = "```python\n{{ prompt }}```"
ONLY_TEST = {"test": "test"}
HUMAN_EVAL = Benchmark(
    problem_example,
    (
        Template("prompt", "{{ prompt }}", "{{ answer }}"),
        Template("complete", f"Complete this function. Write only its body.\n{CODE}", "{{ answer }}"),
        Template("body", f"{CODE}\nWhat comes after the docstring?", "{{ answer }}"),
    ),
    (execution.human_eval,),
    (
        Files({"test": "human_eval/HumanEval.jsonl*"}, records),
        parquet("human_eval", ONLY_TEST),
    ),
    "programs",
    splits=ONLY_TEST,
    postprocess=functools.partial(postprocess.extract_problem, stops=STOPS),
)

WMT = (("wmt14", "de-en", "de"), ("wmt14", "fr-en", "fr"), ("wmt16", "ro-en", "ro"))
BENCHMARKS = {
    **{f"{year}_en_{other}": translation(year, pair, "en", other) for year, pair, other in WMT},
    **{f"{year}_{other}_en": translation(year, pair, other, "en") for year, pair, other in WMT},
    "cnn_dailymail": CNN_DAILYMAIL,
    "human_eval": HUMAN_EVAL,
}
