"""Tasks over the embedded corpus, each with bytes (`_bytes`) and with SentencePiece (`_sp`)."""

import functools

import seqio
import tensorflow as tf

from tasks import corpora, preprocessors, vocabularies


def dataset(
    corpus, fields: tuple[str, ...], split: str, shuffle_files: bool, seed: int | None = None
) -> tf.data.Dataset:
    """A corpus function as tf.data, in its own order."""
    spec = {field: tf.TensorSpec((), tf.string) for field in fields}
    return tf.data.Dataset.from_generator(functools.partial(corpus, split), output_signature=spec)


def add(name: str, corpus, fields: tuple[str, ...], steps: tuple, features: tuple[str, ...], vocabulary) -> None:
    """Registers one task: a corpus, the steps up to its token cache, and the features they make."""
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(functools.partial(dataset, corpus, fields), splits=corpora.SPLITS),
        preprocessors=[
            *steps,
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
            seqio.CacheDatasetPlaceholder(),
        ],
        output_features={feature: seqio.Feature(vocabulary, add_eos=True) for feature in features},
        metric_fns=[],
    )


for suffix, vocabulary in (("bytes", vocabularies.BYTES), ("sp", vocabularies.SENTENCEPIECE)):
    texts = {"python_source": corpora.python_source, "python_docs": corpora.python_docs}
    for corpus_name, corpus in texts.items():
        steps = (preprocessors.text_as_targets,)
        add(f"{corpus_name}_{suffix}", corpus, ("text",), steps, ("targets",), vocabulary)
    pairs = ("inputs", "targets")
    add(f"python_docstrings_{suffix}", corpora.python_docstrings, pairs, (), pairs, vocabulary)
