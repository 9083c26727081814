"""Text generation: WMT, CNN/DailyMail and HumanEval, from their own files, the Hub's Parquet files, or TFDS.

WMT has sacreBLEU's default, the tokenizer of mteval-v13a; CNN/DailyMail ROUGE as T5 computes it; HumanEval pass@k by its tests.
"""

import functools
import itertools
from collections.abc import Iterator
from pathlib import Path

from t5x_like import text_metrics
from t5x_like.cleaning.steps import Dropped
from t5x_like.files.lines import read_lines
from t5x_like.prompting.templates import Template
from t5x_like.tasks.benchmarks.benchmark import Benchmark, Layout, Row, jsonl_layout, parquet_layout, read_records
from t5x_like.tasks.synthetic.sampling import make_templates
from t5x_like.text_metrics import execution, postprocess

LANGUAGES = {"en": "English", "de": "German", "fr": "French", "ro": "Romanian"}
ALL = {"train": "train", "validation": "validation", "test": "test"}
STOPS = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")  # HumanEval's (Chen et al. 2021, section 2.2)


def read_parallel(path: Path, source: str, target: str) -> Iterator[Row | Dropped]:
    """Yields the rows of two parallel files, NAME.en and NAME.de.

    Raises:
      ValueError: one of them is missing or has more lines.
    """
    target_path = path.with_suffix(f".{target}")
    if not target_path.is_file():
        raise ValueError(f"{path} has no translation {target_path}; put both files in the same folder")
    for source_line, target_line in itertools.zip_longest(read_lines(path), read_lines(target_path)):
        if source_line is None or target_line is None:
            raise ValueError(
                f"{path} and {target_path} have different numbers of lines; line n of one must translate line n of the other"
            )
        yield {source: source_line, target: target_line}


def translation_example(row: Row, source: str, target: str) -> dict | Dropped:
    """Returns an example of WMT, from a row of TFDS or from the Hub's `translation`."""
    pair = row.get("translation", row)
    text, answer = pair[source].strip(), pair[target].strip()
    if not text or not answer:
        return Dropped("benchmark.no_label", f"a side of {source}-{target} is empty")
    return {"text": text, "answer": answer, "from": LANGUAGES[source], "to": LANGUAGES[target]}


TRANSLATION = make_templates(
    "Translate from {{ from }} to {{ to }}: {{ text }}",
    "{{ text }}\nHow does one say this in {{ to }}?",
    "{{ from }}: {{ text }}\n{{ to }}:",
    "Give the {{ to }} translation of this text.\n{{ text }}",
)


def make_translation(folder: str, tfds_config: str, source: str, target: str) -> Benchmark:
    """Returns one direction of a language pair of WMT; the pair's folder holds SPLIT.en and SPLIT.de, or Parquet files."""
    pair = f"{folder}/{tfds_config}"
    read = functools.partial(read_parallel, source=source, target=target)
    return Benchmark(
        functools.partial(translation_example, source=source, target=target),
        TRANSLATION,
        (text_metrics.bleu,),
        (Layout({split: f"{pair}/{split}.{source}" for split in ALL}, read), parquet_layout(pair, ALL)),
        "translation",
        f"{folder}_translate/{tfds_config}",
        ALL,
        stops=("\n",),
    )


def cnn_dailymail_example(row: Row) -> dict | Dropped:
    """Returns an example of CNN/DailyMail."""
    article, highlights = row["article"].strip(), row["highlights"].strip()
    if not article or not highlights:
        return Dropped("benchmark.no_label", "article or highlights is empty")
    return {"article": article, "answer": highlights}


CNN_DAILYMAIL = Benchmark(
    cnn_dailymail_example,
    make_templates(
        "Summarize: {{ article }}",
        "{{ article }}\n\nThe main points are:",
        "Write the highlights of this news article.\n{{ article }}",
        "Article: {{ article }}\nSummary:",
    ),
    (text_metrics.rouge,),
    (
        Layout({split: f"cnn_dailymail/{split}.csv" for split in ALL}, read_records),
        jsonl_layout("cnn_dailymail", ALL),
        parquet_layout("cnn_dailymail", ALL),
    ),
    "summarization",
    "cnn_dailymail",
    ALL,
)


def human_eval_example(row: Row) -> dict:
    """Returns an example of HumanEval; the answer is the canonical solution."""
    fields = {name: row[name] for name in ("task_id", "prompt", "entry_point", "test")}
    return fields | {"answer": row["canonical_solution"]}


CODE = "```python\n{{ prompt }}```"
ONLY_TEST = {"test": "test"}
HUMAN_EVAL = Benchmark(
    human_eval_example,
    (
        Template("prompt", "{{ prompt }}", "{{ answer }}"),
        Template("complete", f"Complete this function. Write only its body.\n{CODE}", "{{ answer }}"),
        Template("body", f"{CODE}\nWhat comes after the docstring?", "{{ answer }}"),
    ),
    (execution.human_eval,),
    (
        Layout({"test": "human_eval/HumanEval.jsonl*"}, read_records),
        parquet_layout("human_eval", ONLY_TEST),
    ),
    "programs",
    splits=ONLY_TEST,
    postprocess=functools.partial(postprocess.extract_problem, stops=STOPS),
    stops=STOPS,
)

WMT = (("wmt14", "de-en", "de"), ("wmt14", "fr-en", "fr"), ("wmt16", "ro-en", "ro"))
BENCHMARKS = {
    **{f"{year}_en_{other}": make_translation(year, pair, "en", other) for year, pair, other in WMT},
    **{f"{year}_{other}_en": make_translation(year, pair, other, "en") for year, pair, other in WMT},
    "cnn_dailymail": CNN_DAILYMAIL,
    "human_eval": HUMAN_EVAL,
}
