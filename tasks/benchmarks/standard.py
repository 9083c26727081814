"""Registers the benchmarks in every variant: NAME[_few_shot | _steps | _chat]_{bytes,sp} (see `instructions.variants`).

Registration reads no data. A benchmark is read at first use, from `$T5X_LIKE_DATA` or from a dataset prepared by TFDS.
"""

from t5x_like.tasks.benchmarks import answers, generation, glue, superglue
from t5x_like.tasks.benchmarks.source import BenchmarkSource
from t5x_like.tasks.instructions import variants

BENCHMARKS = {
    **glue.BENCHMARKS,
    **superglue.BENCHMARKS,
    **answers.BENCHMARKS,
    **generation.BENCHMARKS,
}
CLUSTERS = {name: benchmark.cluster for name, benchmark in BENCHMARKS.items()}
WITH_RATIONALES = ("gsm8k",)

for name, benchmark in BENCHMARKS.items():
    variants.add(
        name,
        BenchmarkSource(name, benchmark),
        benchmark.templates,
        benchmark.metric_fns,
        benchmark.postprocess,
        steps=name in WITH_RATIONALES,
        stops=benchmark.stops,
        ranked=benchmark.ranked,
    )
