"""Tasks over reasoning-gym's procedural datasets, configured in gin: see gin_configs/tasks/reasoning.gin."""

import functools
import json
from collections.abc import Iterator, Mapping

from t5x_like.tasks import corpora, vocabularies
from t5x_like.tasks.instructions import instruction
from t5x_like.tasks.sources.files import GeneratorSource
from t5x_like.tasks.synthetic.sampling import make_templates
from t5x_like.text_metrics import postprocess, reasoning

TEMPLATES = make_templates(
    "{{ question }}",
    "Question: {{ question }}\nAnswer:",
    "{{ question }}\nGive only the answer.",
    "Problem:\n{{ question }}\n\nSolution:",
    "Q: {{ question }}\nA:",
)


def read_entries(dataset: str, size: int, seed: int, options: str, split: str) -> Iterator[dict]:
    """Yields {"question", "answer", "index"} of the entries of a split, by hash of the question; skips those without answer."""
    entries = reasoning.create_dataset(dataset, size, seed, json.loads(options))
    for index in range(size):
        entry = entries[index]
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
    """Registers a task over one of reasoning-gym's datasets, with its verifier as the metric.

    Args:
      name: the task's name.
      dataset: name of the dataset in reasoning-gym.
      size: number of entries.
      seed: seed of the dataset.
      options: options of the dataset.
      vocabulary: bytes or sp.

    Raises:
      ValueError: the dataset or the vocabulary does not exist.
      ImportError: reasoning-gym is not installed.
    """
    if vocabulary not in vocabularies.BY_NAME:
        raise ValueError(f"vocabulary={vocabulary!r} is none of {', '.join(vocabularies.BY_NAME)}")
    options = dict(options or {})
    reasoning.create_dataset(dataset, 1, seed, options)
    read = functools.partial(read_entries, dataset, size, seed, json.dumps(options, sort_keys=True))
    instruction.add(
        name,
        GeneratorSource(read, corpora.SPLITS),
        TEMPLATES,
        vocabularies.BY_NAME[vocabulary],
        metric_fns=(functools.partial(reasoning.verify, dataset=dataset, size=size, seed=seed, options=options),),
        postprocess_fn=functools.partial(postprocess.select_answers, field="index"),
    )
