"""Vocabularies for seqio: wrappers of `t5x_like.data.tokenizers`, and the SentencePiece model of the embedded corpus."""

import functools
import io
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import sentencepiece
import seqio
import tensorflow as tf

from t5x_like.data.cache import token_cache
from t5x_like.data.tokenizers import folder as tokenizer_folder
from t5x_like.data.tokenizers import vocabularies
from t5x_like.files import atomic
from t5x_like.tasks import corpora
from t5x_like.types import PathLike, Vocabulary


class SeqioVocabulary(seqio.Vocabulary):
    """A seqio vocabulary that wraps one of `t5x_like.data.tokenizers`, loaded at first use. It encodes literally.

    Attributes:
      plain: the wrapped vocabulary, which training reads without TensorFlow.
      files: patterns of the files that it is loaded from; token caches depend on them.
    """

    def __init__(self, load: Callable[[], Vocabulary], files: Sequence[str] = ()):
        super().__init__(extra_ids=0)
        self._load, self.files = load, tuple(files)

    @functools.cached_property
    def plain(self) -> Vocabulary:
        """The wrapped vocabulary."""
        return self._load()

    @property
    def bos_id(self) -> int | None:
        """The BOS id; None if decoders start with padding, as T5's do."""
        return None if self.plain.bos == self.plain.pad else self.plain.bos

    @property
    def eos_id(self) -> int | None:
        """The EOS id."""
        return self.plain.eos

    @property
    def unk_id(self) -> int | None:
        """The id of unknown text."""
        return self.plain.unk

    @property
    def pad_id(self) -> int:
        """The padding id; 0 by default."""
        return 0 if self.plain.pad is None else self.plain.pad

    @property
    def _base_vocab_size(self) -> int:
        return self.plain.vocab_size

    def _encode(self, s: str) -> list[int]:
        return self.plain.encode(s, literal=True)

    def _decode(self, ids: Iterable[int]) -> str:
        return self.plain.decode(ids)

    def _encode_tf(self, s: tf.Tensor) -> tf.Tensor:
        def encode(text: tf.Tensor) -> tf.Tensor:
            return tf.constant(self._encode(text.numpy().decode("utf-8", errors="replace")), tf.int32)

        ids = tf.py_function(encode, [s], tf.int32)
        ids.set_shape([None])
        return ids

    def _decode_tf(self, ids: tf.Tensor) -> tf.Tensor:
        return tf.py_function(lambda ids: self.plain.decode(ids.numpy().tolist()), [ids], tf.string)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeqioVocabulary) and self.plain.fingerprint == other.plain.fingerprint

    def __hash__(self) -> int:
        return hash(self.plain.fingerprint)


def train_sentencepiece(texts: Iterable[str], vocab_size: int, extra_ids: int = 100) -> bytes:
    """Trains a lossless SentencePiece unigram model: no normalization, unknown characters encoded as bytes.

    Args:
      texts: the training texts.
      vocab_size: the number of ids, sentinels included.
      extra_ids: the number of sentinels.

    Returns:
      The serialized model; equal for equal texts.
    """
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(split_lines(texts)),
        model_writer=model,
        vocab_size=vocab_size - extra_ids,
        model_type="unigram",
        pad_id=vocabularies.PAD,
        eos_id=vocabularies.EOS,
        unk_id=vocabularies.UNK,
        bos_id=-1,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        byte_fallback=True,
        split_digits=True,
        input_sentence_size=60_000,
        shuffle_input_sentence=False,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def split_lines(texts: Iterable[str], limit: int = 4000) -> Iterable[str]:
    """Yields the lines of texts with their line ends, as training sentences; drops lines of `limit` bytes or more."""
    for text in texts:
        yield from (line for line in text.splitlines(keepends=True) if 0 < len(line.encode()) < limit)


def from_folder(folder: PathLike, vocab_size: int | None = None) -> SeqioVocabulary:
    """Returns the tokenizer of a folder; see `tokenizer_folder.read_folder`."""
    folder = tokenizer_folder.locate(folder)
    load = functools.partial(tokenizer_folder.read_folder, folder, vocab_size)
    return SeqioVocabulary(load, [f"{folder}/*.{suffix}" for suffix in ("json", "model", "txt", "jinja")])


BYTES = SeqioVocabulary(vocabularies.ByteVocabulary)


def load_embedded_sentencepiece(vocab_size: int = 8192) -> vocabularies.SentencePieceVocabulary:
    """Returns the SentencePiece model of the embedded corpus, trained at first use and saved in the cache folder."""
    version = f"{token_cache.package_version('python')}-{(token_cache.source_hash('t5x_like.tasks.corpora') or '')[:8]}"
    path = token_cache.default_root() / "vocabularies" / f"python-{version}-{vocab_size}.model"
    if not path.exists():
        texts = (
            example["text"] for corpus in (corpora.python_source, corpora.python_docs) for example in corpus("train")
        )
        print(f"training a SentencePiece model of {vocab_size} ids, saved as {path}", file=sys.stderr)
        model = train_sentencepiece(texts, vocab_size)
        with atomic.new_file(path) as file:
            file.write(model)
    return vocabularies.SentencePieceVocabulary(Path(path).read_bytes())


SENTENCEPIECE = SeqioVocabulary(load_embedded_sentencepiece)

BY_NAME = {"bytes": BYTES, "sp": SENTENCEPIECE}
