"""The chain-of-thought files of the FLAN collection (Longpre et al. 2023): question, answer and rationale, separated by tabs.

The files are `$T5X_LIKE_DATA/flan_cot/NAME_train.tsv`, with line breaks inside a field written as `\\n`. The hash of the
question puts 1 in 20 lines in validation.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

from t5x_like import text_metrics
from t5x_like.cleaning import reading
from t5x_like.cleaning.steps import Dropped
from t5x_like.tasks import corpora
from t5x_like.tasks.benchmarks.benchmark import Benchmark, Layout, Metric, Row
from t5x_like.tasks.benchmarks.source import BenchmarkSource
from t5x_like.tasks.instructions import variants
from t5x_like.tasks.synthetic.sampling import make_templates

COLUMNS = ("question", "answer", "rationale")


def read_rows(path: Path, split: str) -> Iterator[dict | Dropped]:
    """Yields the lines of a file that are in a split."""
    for row in reading.read_tsv(path, columns=COLUMNS):
        if isinstance(row, Dropped) or corpora.split_of(row["question"]) == split:
            yield row


def make_example(row: Row) -> dict | Dropped:
    """Converts a line to an example, with its line breaks restored."""
    fields = {name: row[name].replace("\\n", "\n").strip() for name in COLUMNS}
    if not all(fields.values()):
        return Dropped("benchmark.no_label", f"a field is empty: {fields['question'][:60]!r}")
    return fields


TEMPLATES = make_templates(
    "{{ question }}",
    "Question: {{ question }}\nAnswer:",
    "Q: {{ question }}\nA:",
    "Give only the answer. {{ question }}",
    "{{ question }}\nWhat is the answer?",
)


def make_layouts(name: str) -> tuple[Layout, ...]:
    """Returns one layout per split; both read the same file."""
    pattern = f"flan_cot/{name}_train.tsv"
    return tuple(Layout({split: pattern}, functools.partial(read_rows, split=split)) for split in corpora.SPLITS)


def make_benchmark(name: str, cluster: str, metric: Metric = text_metrics.exact_match) -> Benchmark:
    """Returns the benchmark of one file of the collection."""
    return Benchmark(make_example, TEMPLATES, (metric,), make_layouts(name), cluster)


BENCHMARKS = {
    "cot_gsm8k": make_benchmark("gsm8k", "arithmetic", text_metrics.number_match),
    "cot_strategyqa": make_benchmark("strategyqa", "closed_book"),
    "cot_qasc": make_benchmark("qasc", "knowledge"),
    "cot_ecqa": make_benchmark("ecqa", "common_sense"),
    "cot_creak": make_benchmark("creak", "common_sense"),
    "cot_aqua": make_benchmark("aqua", "arithmetic"),
    "cot_sensemaking": make_benchmark("sensemaking", "common_sense"),
}
CLUSTERS = {name: benchmark.cluster for name, benchmark in BENCHMARKS.items()}

for name, benchmark in BENCHMARKS.items():
    source = BenchmarkSource(name, benchmark)
    variants.add(name, source, benchmark.templates, benchmark.metric_fns, steps=True, stops=benchmark.stops)
