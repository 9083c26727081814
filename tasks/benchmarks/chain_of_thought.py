"""The chain-of-thought files of the FLAN collection (Longpre et al. 2023): question, answer and steps, separated by tabs.

They are looked for as `$T5X_LIKE_DATA/flan_cot/NAME_train.tsv`. Line ends inside a field are written `\\n`. A line is in
validation by the hash of its question (1 in 20).
"""

import functools
from collections.abc import Iterator
from pathlib import Path

from t5x_like import text_metrics
from t5x_like.cleaning import reading
from t5x_like.cleaning.steps import Dropped
from t5x_like.tasks import corpora
from t5x_like.tasks.benchmarks.sets import Benchmark, Files
from t5x_like.tasks.benchmarks.source import BenchmarkSource
from t5x_like.tasks.instructions import variants
from t5x_like.tasks.synthetic.sampling import worded

COLUMNS = ("question", "answer", "rationale")


def rows(path: Path, split: str) -> Iterator[dict | Dropped]:
    """The lines of a file that belong to a split."""
    for row in reading.read_tsv(path, columns=COLUMNS):
        if isinstance(row, Dropped) or corpora.split_of(row["question"]) == split:
            yield row


def example(row: dict) -> dict | Dropped:
    """A line with its line ends restored."""
    fields = {name: row[name].replace("\\n", "\n").strip() for name in COLUMNS}
    if not all(fields.values()):
        return Dropped("benchmark.no_label", f"a field is empty: {fields['question'][:60]!r}")
    return fields


WORDINGS = worded(
    "{{ question }}",
    "Question: {{ question }}\nAnswer:",
    "Q: {{ question }}\nA:",
    "Give only the answer. {{ question }}",
    "{{ question }}\nWhat is the answer?",
)


def files(name: str) -> tuple[Files, ...]:
    """The only file of a set, read once for each split."""
    pattern = f"flan_cot/{name}_train.tsv"
    return tuple(Files({split: pattern}, functools.partial(rows, split=split)) for split in corpora.SPLITS)


def chain_of_thought(name: str, cluster: str, metric=text_metrics.exact_match) -> Benchmark:
    return Benchmark(example, WORDINGS, (metric,), files(name), cluster)


BENCHMARKS = {
    "cot_gsm8k": chain_of_thought("gsm8k", "arithmetic", text_metrics.number_match),
    "cot_strategyqa": chain_of_thought("strategyqa", "closed_book"),
    "cot_qasc": chain_of_thought("qasc", "knowledge"),
    "cot_ecqa": chain_of_thought("ecqa", "common_sense"),
    "cot_creak": chain_of_thought("creak", "common_sense"),
    "cot_aqua": chain_of_thought("aqua", "arithmetic"),
    "cot_sensemaking": chain_of_thought("sensemaking", "common_sense"),
}
CLUSTERS = {name: benchmark.cluster for name, benchmark in BENCHMARKS.items()}

for name, benchmark in BENCHMARKS.items():
    source = BenchmarkSource(name, benchmark)
    variants.add(name, source, benchmark.templates, benchmark.metric_fns, steps=True)
