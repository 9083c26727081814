"""Loads the vocabulary of a token cache or a run directory: the inverse of every vocabulary's `save`."""

import json
from collections.abc import Callable
from pathlib import Path

from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.data.tokenizers.sentencepiece import SentencePieceModel
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary, SentencePieceVocabulary
from t5x_like.types import PathLike, Vocabulary

KINDS: dict[str, Callable[[Path, dict], Vocabulary]] = {
    "bytes": lambda folder, content: ByteVocabulary(content["extra_ids"]),
    "sentencepiece": lambda folder, content: SentencePieceVocabulary(
        (folder / "vocabulary.model").read_bytes(), content["extra_ids"]
    ),
    "tokenizer": TokenizerVocabulary.from_saved,
    "sentencepiece_model": SentencePieceModel.from_saved,
}


def load(folder: PathLike) -> Vocabulary:
    """The vocabulary that `save` wrote into `folder`.

    Raises:
      ValueError: this version does not know the kind of vocabulary.
    """
    folder = Path(folder)
    content = json.loads((folder / "vocabulary.json").read_text())
    kind = content.pop("kind")
    if kind not in KINDS:
        raise ValueError(
            f"{folder / 'vocabulary.json'} is of kind {kind!r}, known are {', '.join(KINDS)}; update t5x_like"
        )
    return KINDS[kind](folder, content)
