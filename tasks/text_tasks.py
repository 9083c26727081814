"""Registers seqio tasks whose features are text fields; what the tasks of `custom` share."""

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import seqio
import tensorflow as tf

from t5x_like import text_metrics
from t5x_like.data.tokenizers import named
from t5x_like.data.tokenizers import vocabularies as plain_vocabularies
from t5x_like.tasks import vocabularies


def register(
    name: str,
    source: seqio.DataSource,
    features: Sequence[str],
    vocabulary: vocabularies.SeqioVocabulary,
    metric_fns: Sequence[Callable] = (),
) -> None:
    """Registers a task whose features are text fields of the source, tokenized and ended by EOS."""
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
            seqio.CacheDatasetPlaceholder(),
        ],
        output_features={feature: seqio.Feature(vocabulary, add_eos=True) for feature in features},
        metric_fns=list(metric_fns),
    )


def check_and_register(
    name: str,
    source: seqio.DataSource,
    fields: Mapping[str, str],
    vocabulary: str,
    metrics: str | Sequence[str] = (),
) -> None:
    """Registers a task after reading the first examples of each split.

    Args:
      name: the task's name.
      source: gives examples with the features of `fields`.
      fields: {feature: field of the records}, for error messages.
      vocabulary: see `find_vocabulary`.
      metrics: see `find_metrics`.

    Raises:
      ValueError: a field is absent or not text, a split is empty, a metric or the vocabulary is unknown, or it has no EOS.
    """
    wrapped, metric_fns = find_vocabulary(vocabulary), find_metrics(metrics, fields)
    plain_vocabularies.end_id(wrapped.plain)
    for split in source.splits:
        spec = source.get_dataset(split, shuffle=False).element_spec
        for feature, field in fields.items():
            if spec[feature].dtype != tf.string or spec[feature].shape.rank:
                kind = f"{spec[feature].dtype.name}{' list' * (spec[feature].shape.rank or 0)}"
                raise ValueError(
                    f"split {split!r}: field {field!r}, used as {feature}, is {kind}, not text; name a text field"
                )
        if getattr(source, "split_filter", None) and not any(
            True for shard in source.list_shards(split) for _ in source.examples(split, shard)
        ):
            one_in = source.split_filter.args[-1]
            raise ValueError(
                f"validation_one_in={one_in}: no document falls into {split}; give a smaller number, or validation data"
            )
    register(name, source, list(fields), wrapped, metric_fns)


def find_metrics(names: str | Sequence[str], fields: Mapping[str, str]) -> list[Callable]:
    """Returns metrics of `text_metrics` by name: exact_match, rouge, perplexity, ...

    Raises:
      ValueError: there is no such metric, or the task has no inputs to answer.
    """
    names = [names] if isinstance(names, str) else names
    functions = {name: getattr(text_metrics, name) for name in text_metrics.__all__}
    known = [
        name for name, function in functions.items() if next(iter(inspect.signature(function).parameters)) == "targets"
    ]
    if unknown := [name for name in names if name not in known]:
        raise ValueError(f"metrics={names!r}: there is no metric {unknown[0]!r}; known are {', '.join(known)}")
    if names and "inputs" not in fields:
        raise ValueError(
            f"metrics={names!r} compare answers with targets, but the task has no inputs; name their field"
        )
    return [functions[name] for name in names]


def find_vocabulary(vocabulary: str) -> vocabularies.SeqioVocabulary:
    """Returns a vocabulary by name (bytes, sp), Hugging Face tokenizer folder, or SentencePiece .model file.

    Raises:
      ValueError: it is none of these.
    """
    if vocabulary in vocabularies.BY_NAME:
        return vocabularies.BY_NAME[vocabulary]
    path = Path(vocabulary).expanduser()
    if path.is_dir():
        return vocabularies.from_folder(path)
    return vocabularies.SeqioVocabulary(functools.partial(named.load, vocabulary), [str(path)])


def make_fields(text: str | None, inputs: str | None, targets: str | None) -> dict[str, str]:
    """Returns {feature: field}: `text` as targets, or `inputs` and `targets`; the field "text" by default.

    Raises:
      ValueError: `text` is given with a pair, or only one of a pair is given.
    """
    if (inputs is None) != (targets is None) or (text is not None and targets is not None):
        raise ValueError(
            f"text={text!r}, inputs={inputs!r}, targets={targets!r}: name either one text field, or one field for inputs "
            "and one for targets"
        )
    if inputs is None or targets is None:
        return {"targets": text or "text"}
    return {"inputs": inputs, "targets": targets}


def is_in_split(field: str, one_in: int, split: str, example: Mapping[str, bytes]) -> bool:
    """Returns whether an example is in a split: by the hash of a field, 1 in `one_in` is in validation, others in train."""
    digest = hashlib.blake2b(example[field], digest_size=8).digest()
    return (int.from_bytes(digest) % one_in == 0) == (split == "validation")


def make_split_filter(fields: Mapping[str, str], one_in: int) -> functools.partial:
    """Returns `is_in_split` by the first field, so equal texts, or pairs with equal inputs, are in the same split.

    Raises:
      ValueError: `one_in` leaves no training data.
    """
    if one_in < 2:
        raise ValueError(f"validation_one_in={one_in} leaves no training data; give 2 or more, or validation data")
    return functools.partial(is_in_split, next(iter(fields)), one_in)
