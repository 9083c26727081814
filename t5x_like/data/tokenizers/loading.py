"""Loads the vocabulary of a token cache or a run directory: the inverse of every vocabulary's `save`."""

from collections.abc import Callable
from pathlib import Path

from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.data.tokenizers.sentencepiece import SentencePieceModel
from t5x_like.data.tokenizers.settings import read_json
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary, SentencePieceVocabulary
from t5x_like.types import PathLike, Vocabulary

MAX_IDS = 2**24  # of a saved vocabulary; some arrays have an entry for each
KINDS: dict[str, Callable[[Path, dict], Vocabulary]] = {
    "bytes": lambda folder, content: ByteVocabulary(content["extra_ids"], content.get("sentinel")),
    "sentencepiece": lambda folder, content: SentencePieceVocabulary(
        (folder / "vocabulary.model").read_bytes(), content["extra_ids"]
    ),
    "tokenizer": TokenizerVocabulary.from_saved,
    "sentencepiece_model": SentencePieceModel.from_saved,
}


def load(folder: PathLike) -> Vocabulary:
    """The vocabulary that `save` wrote into `folder`.

    Raises:
      ValueError: this version does not know the kind of vocabulary, or the file is damaged.
    """
    path = Path(folder) / "vocabulary.json"
    content = read_json(path)
    kind = content.pop("kind", None)
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"{path} is of kind {kind!r}, known are {', '.join(KINDS)}; update t5x_like")
    for name in {"extra_ids", "vocab_size"} & set(content):
        if type(content[name]) is not int or not 0 <= content[name] <= MAX_IDS:
            raise ValueError(
                f"{path}: {name}={content[name]!r} is not a number from 0 to {MAX_IDS}; copy the folder again"
            )
    try:
        return KINDS[kind](Path(folder), content)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); copy the folder again") from error
