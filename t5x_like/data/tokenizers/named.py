"""Vocabularies as gin files name them (VOCABULARY): bytes, sp, or the path of a tokenizer."""

import functools
from pathlib import Path

from t5x_like.types import Vocabulary

SIZES = {"bytes": 384, "sp": 8192}  # numbers of ids of the names that are no paths; see tasks/vocabularies.py


@functools.cache
def vocab_size(vocabulary: str) -> int:
    """The number of ids of a vocabulary: the VOCAB_SIZE of its models, if none is given.

    Raises:
      ValueError: there is no such vocabulary.
    """
    return SIZES.get(vocabulary) or load(vocabulary).vocab_size


def load(path: str) -> Vocabulary:
    """The vocabulary of a Hugging Face tokenizer folder or a SentencePiece .model file.

    Raises:
      ValueError: it is neither of these.
    """
    from t5x_like.data.tokenizers import folder as tokenizer_folder  # imports tokenizers, which names do not need

    place = Path(path).expanduser()
    if place.is_dir():
        return tokenizer_folder.read_folder(place)
    if place.is_file() and place.suffix == ".model":
        return load_model_file(place)
    raise ValueError(
        f"vocabulary={path!r} is none of {', '.join(SIZES)}, no tokenizer folder and no SentencePiece .model file; "
        "`t5x_like tokenizer train` makes such a folder"
    )


def load_model_file(path: Path) -> Vocabulary:
    """Loads a SentencePiece model: with T5's special ids it gets 100 sentinels, otherwise it is read as LLaMA's.

    Raises:
      ValueError: the file is not a SentencePiece model.
    """
    import sentencepiece

    from t5x_like.data.tokenizers import folder as tokenizer_folder
    from t5x_like.data.tokenizers import vocabularies
    from t5x_like.data.tokenizers.settings import Settings

    settings = Settings.read(path.parent)
    model = path.read_bytes()
    try:
        processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        raise ValueError(
            f"vocabulary={path} is not a SentencePiece model ({str(error)[:80]}); copy it again"
        ) from error
    ids = (processor.pad_id(), processor.eos_id(), processor.unk_id())
    if settings.kind is None and ids == (vocabularies.PAD, vocabularies.EOS, vocabularies.UNK):
        return vocabularies.SentencePieceVocabulary(model)
    return tokenizer_folder.read_sentencepiece(path, settings, settings.vocab_size)
