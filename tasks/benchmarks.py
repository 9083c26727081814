"""The standard sets as tasks, in every variant: NAME[_few_shot | _steps | _chat]_{bytes,sp} (see `instruction_variants`).

Nothing is read when they are registered. A set is read at first use, from `$T5X_LIKE_DATA` or from what TFDS has prepared.
"""

from t5x_like.tasks import (
    benchmarks_answers,
    benchmarks_generation,
    benchmarks_glue,
    benchmarks_superglue,
    instruction_variants,
)
from t5x_like.tasks.benchmark_source import BenchmarkSource

BENCHMARKS = {
    **benchmarks_glue.BENCHMARKS,
    **benchmarks_superglue.BENCHMARKS,
    **benchmarks_answers.BENCHMARKS,
    **benchmarks_generation.BENCHMARKS,
}
CLUSTERS = {name: benchmark.cluster for name, benchmark in BENCHMARKS.items()}
STEPWISE = ("gsm8k",)

for name, benchmark in BENCHMARKS.items():
    instruction_variants.add(
        name,
        BenchmarkSource(name, benchmark),
        benchmark.templates,
        benchmark.metric_fns,
        benchmark.postprocess,
        steps=name in STEPWISE,
    )
