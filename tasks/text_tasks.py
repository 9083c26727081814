"""Tasks of text fields: a source's texts tokenized, each with its end; and what tasks made to order have in common."""

import functools
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import sentencepiece
import seqio
import tensorflow as tf

from t5x_like.data.tokenizers import folder
from t5x_like.data.tokenizers import vocabularies as light_vocabularies
from t5x_like.tasks import vocabularies

NAMED = {"bytes": vocabularies.BYTES, "sp": vocabularies.SENTENCEPIECE}


def register(
    name: str, source: seqio.DataSource, features: Sequence[str], vocabulary: vocabularies.SeqioVocabulary
) -> None:
    """Registers a task whose features are text fields of the source."""
    seqio.TaskRegistry.add(
        name,
        source=source,
        preprocessors=[
            seqio.preprocessors.tokenize,
            seqio.preprocessors.append_eos,
            seqio.CacheDatasetPlaceholder(),
        ],
        output_features={feature: seqio.Feature(vocabulary, add_eos=True) for feature in features},
        metric_fns=[],
    )


def register_checked(name: str, source: seqio.DataSource, fields: Mapping[str, str], vocabulary: str) -> None:
    """Registers a task made to order, after a look at the beginning of each split.

    Raises:
      ValueError: a field that is absent or no text, an empty split, a vocabulary that is none or has no end of sequence.
    """
    wrapped = vocabulary_of(vocabulary)
    light_vocabularies.end_id(wrapped.plain)
    for split in source.splits:
        spec = source.get_dataset(split, shuffle=False).element_spec
        for feature, field in fields.items():
            if spec[feature].dtype != tf.string or spec[feature].shape.rank:
                found = f"{spec[feature].dtype.name}{' list' * (spec[feature].shape.rank or 0)}"
                raise ValueError(
                    f"split {split!r}: field {field!r}, wanted as {feature}, is not a text but {found}; name a field of text"
                )
        if getattr(source, "belongs", None) and not any(
            True for shard in source.list_shards(split) for _ in source.examples(split, shard)
        ):
            one_in = source.belongs.args[-1]
            raise ValueError(
                f"validation_one_in={one_in}: no document belongs to {split}; give a smaller number, or validation data"
            )
    register(name, source, list(fields), wrapped)


def vocabulary_of(given: str) -> vocabularies.SeqioVocabulary:
    """A vocabulary by name (bytes, sp), by the folder of a Hugging Face tokenizer, or by a SentencePiece .model file.

    Raises:
      ValueError: it is none of them.
    """
    if given in NAMED:
        return NAMED[given]
    path = Path(given).expanduser()
    if path.is_dir():
        return vocabularies.from_folder(path)
    if path.is_file() and path.suffix == ".model":
        return vocabularies.SeqioVocabulary(functools.partial(of_model_file, path), [str(path)])
    raise ValueError(
        f"vocabulary={given!r} is none of {', '.join(NAMED)}, no folder with a tokenizer and no SentencePiece .model file; "
        "`t5x_like tokenizer train` makes such a folder"
    )


def of_model_file(path: Path) -> light_vocabularies.Vocabulary:
    """A SentencePiece file: with T5's ids and 100 sentinels above them, or else with LLaMA's kind of ids."""
    settings = folder.Settings.read(path.parent)
    model = path.read_bytes()
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise ValueError(f"vocabulary={path} is no SentencePiece model ({str(error)[:80]}); fetch it again") from error
    ids = (processor.pad_id(), processor.eos_id(), processor.unk_id())
    if settings.kind is None and ids == (light_vocabularies.PAD, light_vocabularies.EOS, light_vocabularies.UNK):
        return light_vocabularies.SentencePieceVocabulary(model)
    return folder.read_sentencepiece(path, settings, settings.vocab_size)


def fields_of(text: str | None, inputs: str | None, targets: str | None) -> dict[str, str]:
    """{feature: field}: `text` as targets, or `inputs` and `targets`; the field `text` where none is named.

    Raises:
      ValueError: both are given, or one of a pair.
    """
    if (inputs is None) != (targets is None) or (text is not None and targets is not None):
        raise ValueError(
            f"text={text!r}, inputs={inputs!r}, targets={targets!r}: name one field of text, or one for inputs and one "
            "for targets"
        )
    return {"targets": text or "text"} if inputs is None else {"inputs": inputs, "targets": targets}


def in_split(field: str, one_in: int, split: str, example: Mapping[str, bytes]) -> bool:
    """Whether an example belongs to a split: one in so many, by the hash of a field, to validation, the others to train."""
    digest = hashlib.blake2b(example[field], digest_size=8).digest()
    return (int.from_bytes(digest) % one_in == 0) == (split == "validation")


def held_out(fields: Mapping[str, str], one_in: int) -> functools.partial:
    """`in_split` for a task of these fields: equal texts, or pairs with equal inputs, are never in both splits.

    Raises:
      ValueError: a share that leaves one split empty.
    """
    if one_in < 2:
        raise ValueError(f"validation_one_in={one_in} leaves nothing to train on; give 2 or more, or validation data")
    return functools.partial(in_split, next(iter(fields)), one_in)
