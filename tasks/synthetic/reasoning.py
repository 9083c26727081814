"""Tasks over reasoning-gym's procedural datasets, made to order from gin: see gin_configs/tasks/reasoning.gin."""

import functools
import json
from collections.abc import Iterator, Mapping

from t5x_like.tasks import corpora
from t5x_like.tasks.instructions import instruction, variants
from t5x_like.tasks.sources.files import GeneratorSource
from t5x_like.tasks.synthetic.sampling import worded
from t5x_like.text_metrics import postprocess, reasoning

TEMPLATES = worded(
    "{{ question }}",
    "Question: {{ question }}\nAnswer:",
    "{{ question }}\nGive only the answer.",
    "Problem:\n{{ question }}\n\nSolution:",
    "Q: {{ question }}\nA:",
)


def entries(dataset: str, size: int, seed: int, options: str, split: str) -> Iterator[dict]:
    """{"question", "answer", "index"}: the entries whose question's hash is in the split; those without an answer are not."""
    made = reasoning.create_dataset(dataset, size, seed, json.loads(options))
    for index in range(size):
        entry = made[index]
        if entry["answer"] is not None and corpora.split_of(entry["question"]) == split:
            yield {"question": entry["question"], "answer": str(entry["answer"]), "index": index}


def define(
    name: str,
    dataset: str,
    size: int = 10_000,
    seed: int = 0,
    options: Mapping | None = None,
    vocabulary: str = "bytes",
) -> None:
    """Registers a task over one of reasoning-gym's datasets, with its verifier as the metric; `options` are the dataset's.

    Raises:
      ValueError: no such dataset or vocabulary.
      ImportError: reasoning-gym is not installed.
    """
    if vocabulary not in variants.VOCABULARIES:
        raise ValueError(f"vocabulary={vocabulary!r} is none of {', '.join(variants.VOCABULARIES)}")
    given = dict(options or {})
    reasoning.create_dataset(dataset, 1, seed, given)
    read = functools.partial(entries, dataset, size, seed, json.dumps(given, sort_keys=True))
    instruction.add(
        name,
        GeneratorSource(read, corpora.SPLITS),
        TEMPLATES,
        variants.VOCABULARIES[vocabulary],
        metric_fns=(functools.partial(reasoning.verify, dataset=dataset, size=size, seed=seed, options=given),),
        postprocess_fn=functools.partial(postprocess.select_answers, field="index"),
    )
