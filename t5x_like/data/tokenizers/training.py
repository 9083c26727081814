"""Tokenizers trained on text files by the `tokenizers` and `sentencepiece` libraries, and how well one fits a text.

A kind is a function `(texts, vocab_size, extra_ids, chat, options) -> vocabulary`; `save` writes the Hugging Face folder.
"""

import collections
import dataclasses
import gzip
import io
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from t5x_like.data.tokenizers import conversion
from t5x_like.data.tokenizers import folder as tokenizer_folder
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.data.tokenizers.sentencepiece import SentencePieceModel
from t5x_like.types import Vocabulary

CHUNK = 1 << 16  # characters of a text file that are taken for one text, whole lines
SENTENCE = 4000  # characters; SentencePiece drops longer lines without a word, so they are cut
CHAT = ("<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclasses.dataclass(frozen=True)
class Options:
    """What not every kind asks for: how byte-level BPE splits text (`conversion.SPLITS`), lower case for WordPiece."""

    split: str = "llama-bpe"
    lowercase: bool = False

    def __post_init__(self):
        if self.split not in conversion.SPLITS:
            raise ValueError(f"split={self.split!r} is not known; give one of {', '.join(conversion.SPLITS)}")


def read_texts(paths: Iterable[Path], field: str = "text") -> Iterator[str]:
    """The `field` of each line of .jsonl files; other files in pieces of whole lines. Both may be .gz.

    Raises:
      ValueError: a line that has no such field, bytes that are not UTF-8 or a damaged .gz, by file.
    """
    for path in paths:
        opened = gzip.open if path.suffix == ".gz" else open
        try:
            with opened(path, "rt", encoding="utf-8", newline="") as lines:
                if path.name.removesuffix(".gz").endswith(".jsonl"):
                    yield from fields(path, lines, field)
                else:
                    while part := "".join(lines.readlines(CHUNK)):
                        yield part
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not UTF-8 text ({error.reason}); convert it, or leave it out") from error
        except (EOFError, gzip.BadGzipFile) as error:
            raise ValueError(f"{path} is no whole .gz file ({error}); fetch it again") from error


def fields(path: Path, lines: Iterable[str], field: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(content, dict) or not isinstance(content.get(field), str):
            there = ", ".join(content) if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"{path}, line {number} has no text field={field!r} (found: {there}); name another")
        yield content[field]


def train(
    kind: str,
    texts: Iterable[str],
    vocab_size: int,
    *,
    extra_ids: int = 0,
    chat: bool = False,
    options: Options | None = None,
) -> Vocabulary:
    """A vocabulary of a kind in `KINDS`; `vocab_size` counts every id: special tokens, chat tokens and sentinels too.

    Byte-level BPE, WordPiece and Unigram may end with fewer ids where the text has no more to merge.

    Raises:
      ValueError: an unknown kind, no text, or a vocab_size that is too small (or, for SentencePiece, too large).
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is not known; give one of {', '.join(KINDS)}")
    if extra_ids < 0:
        raise ValueError(f"extra_ids={extra_ids} is below 0; T5 has 100, 0 is none")
    texts = iter(texts)
    first = next((text for text in texts if text.strip()), None)
    if first is None:
        raise ValueError("the input holds no text, only empty lines; give files with text")
    return KINDS[kind](itertools.chain([first], texts), vocab_size, extra_ids, CHAT * chat, options or Options())


def room(vocab_size: int, needed: int, what: str) -> None:
    """Refuses a vocab_size with nothing left to learn."""
    if vocab_size <= needed:
        raise ValueError(f"vocab_size={vocab_size} is too small: {what} take {needed}; give {needed + 1} or more")


def sentinels(extra_ids: int) -> list[str]:
    """T5's, the first one last, so that it has the largest id."""
    return [f"<extra_id_{i}>" for i in reversed(range(extra_ids))]


def byte_level_bpe(texts, vocab_size: int, extra_ids: int, chat: tuple[str, ...], options: Options):
    """GPT-2's kind (Radford et al. 2019): every text is encoded, and decodes to itself."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    special = ["<|endoftext|>", "<|pad|>", *chat]
    room(vocab_size, 256 + len(special) + extra_ids, "256 bytes, special tokens and sentinels")
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = conversion.SPLITS[options.split](False)
    made.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - extra_ids, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(texts, trainer)
    return of_library(made, extra_ids, chat, pad="<|pad|>", eos="<|endoftext|>")


def wordpiece(texts, vocab_size: int, extra_ids: int, chat: tuple[str, ...], options: Options):
    """BERT's kind (Devlin et al. 2019), with [CLS] and [SEP] around a text; the 1000 most frequent characters.

    The texts are held in memory, to number their characters before the library does, whose order differs by run.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = [*conversion.BERT_NAMES.values(), *chat]
    room(vocab_size, len(special) + extra_ids, "special tokens and sentinels")
    texts = list(texts)
    splitter = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    splitter.normalizer = normalizers.BertNormalizer(lowercase=options.lowercase)
    splitter.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet = characters(texts, splitter.normalizer, 1000)
    inner = [f"##{one}" for one in alphabet if len(splitter.pre_tokenizer.pre_tokenize_str(f"a{one}")) == 1]
    needed = len(special) + len(alphabet) + len(inner) + extra_ids
    room(vocab_size, needed, "the text's characters, special tokens and sentinels")
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size - extra_ids,
        special_tokens=[*special, *inner],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    splitter.train_from_iterator(texts, trainer)
    # Made anew, for the trainer's special tokens would be found anywhere in a text.
    made = Tokenizer(models.WordPiece(splitter.get_vocab(), unk_token="[UNK]", max_input_chars_per_word=100))
    made.normalizer, made.pre_tokenizer = splitter.normalizer, splitter.pre_tokenizer
    made.add_special_tokens(special)
    made.decoder = decoders.WordPiece(prefix="##")
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "bos": "[CLS]", "eos": "[SEP]", "mask": "[MASK]"}
    return of_library(made, extra_ids, chat, **names)


def characters(texts: Sequence[str], normalizer, most: int) -> list[str]:
    """The `most` frequent characters of normalised texts, spaces aside, sorted; of equally frequent ones the first."""
    raw: collections.Counter[str] = collections.Counter()
    for text in texts:
        raw.update(text)
    counts: collections.Counter[str] = collections.Counter()
    for one, count in raw.items():
        for made in normalizer.normalize_str(one).strip():
            counts[made] += count
    return sorted(sorted(counts, key=lambda one: (-counts[one], one))[:most])


def unigram(texts, vocab_size: int, extra_ids: int, chat: tuple[str, ...], options: Options):
    """SentencePiece's Unigram (Kudo 2018) as a tokenizer.json, T5's fast kind: NFKC, white space of all kinds one space."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    # Not by the tokenizers library's own trainer: SentencePiece's gives the same pieces in every run.
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    size = vocab_size - extra_ids - len(chat)
    processor = SentencePieceModel(trained(texts, "unigram", size, 3, **ids), vocab_size).processor
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.vocab_size())]
    made = Tokenizer(models.Unigram(pieces, unk_id=2))
    one_space = normalizers.Replace(Regex(r"\s+"), " ")
    made.normalizer = normalizers.Sequence([normalizers.NFKC(), one_space, normalizers.Strip()])
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    names = ("<pad>", "</s>", "<unk>", *chat)
    made.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return of_library(made, extra_ids, chat, pad="<pad>", eos="</s>", unk="<unk>")


def of_library(made, extra_ids: int, chat: tuple[str, ...], **names: str) -> TokenizerVocabulary:
    """A trained tokenizer with its sentinels on top."""
    made.add_special_tokens(sentinels(extra_ids))
    size = made.get_vocab_size(with_added_tokens=True)
    ids = {kind: made.token_to_id(text) for kind, text in names.items()}
    return TokenizerVocabulary(
        made.to_str(),
        size,
        **ids,
        add_bos="bos" in ids,
        stop_ids=(ids["eos"], *(made.token_to_id(text) for text in chat[1:])),
        extra_ids=extra_ids,
        sentinel=made.token_to_id("<extra_id_0>"),
        chat_template=CHATML if chat else None,
    )


def sentencepiece_unigram(texts, vocab_size: int, extra_ids: int, chat: tuple[str, ...], options: Options):
    """T5's kind (Raffel et al. 2020): NFKC, ids of padding 0, end 1, unknown 2, sentinels above the model."""
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "control_symbols": list(chat)}
    model = trained(texts, "unigram", vocab_size - extra_ids, 3 + len(chat), **ids)
    special = {"pad": 0, "eos": 1, "unk": 2, "bos": 0, "add_bos": True, "add_eos": True}
    return of_sentencepiece(model, vocab_size, extra_ids, chat, special)


def sentencepiece_bpe(texts, vocab_size: int, extra_ids: int, chat: tuple[str, ...], options: Options):
    """LLaMA's kind (Touvron et al. 2023): no normalisation, single digits, unknown characters as bytes."""
    ids = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1, "control_symbols": list(chat)}
    keep = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "split_digits": True}
    keep |= {"byte_fallback": True, "allow_whitespace_only_pieces": True}
    model = trained(texts, "bpe", vocab_size - extra_ids, 259 + len(chat), **ids, **keep)
    return of_sentencepiece(model, vocab_size, extra_ids, chat, {"unk": 0, "bos": 1, "eos": 2, "add_bos": True})


def trained(texts: Iterable[str], model_type: str, size: int, special: int, **settings) -> bytes:
    """A SentencePiece model of `size` pieces, `special` of them given.

    Raises:
      ValueError: the library can make no such model of this text.
    """
    import sentencepiece

    room(size, special, "special tokens and bytes, sentinels aside,")
    lines = (line for text in texts for line in text.splitlines() if line.strip())
    parts = (line[i : i + SENTENCE] for line in lines for i in range(0, len(line), SENTENCE))
    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=parts,
            model_writer=out,
            model_type=model_type,
            vocab_size=size,
            max_sentence_length=4 * SENTENCE,
            num_threads=4,  # a fixed number: sums are added up in the threads' order
            minloglevel=2,
            **settings,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"vocab_size: SentencePiece makes no {size} pieces of this text, sentinels aside ({reason}); give another "
            "vocab_size, or more text"
        ) from error
    return out.getvalue()


def of_sentencepiece(model: bytes, vocab_size: int, extra_ids: int, chat: tuple[str, ...], special: dict):
    """A SentencePiece model with its special tokens, which are recognised in a text."""
    pieces = SentencePieceModel(model, vocab_size).processor
    size = pieces.vocab_size()
    own = (special[kind] for kind in ("pad", "eos", "unk", "bos") if kind in special)
    added = {pieces.id_to_piece(index): index for index in own} | {text: pieces.piece_to_id(text) for text in chat}
    added |= {text: size + i for i, text in enumerate(sentinels(extra_ids))}
    return SentencePieceModel(
        model,
        size + extra_ids,
        **special,
        stop_ids=(special["eos"], *(pieces.piece_to_id(text) for text in chat[1:])),
        extra_ids=extra_ids,
        added=tuple(added.items()),
        chat_template=CHATML if chat else None,
    )


KINDS = {
    "bpe": byte_level_bpe,
    "wordpiece": wordpiece,
    "unigram": unigram,
    "sentencepiece_bpe": sentencepiece_bpe,
    "sentencepiece_unigram": sentencepiece_unigram,
}


def save(vocabulary: Vocabulary, folder: Path) -> None:
    """Writes the Hugging Face folder that `tokenizer_folder.read_folder` reads."""
    tokenizer_folder.export(vocabulary, folder)
    path = Path(folder) / "tokenizer_config.json"
    content = tokenizer_folder.read_json(path)
    if content["tokenizer_class"] == "T5Tokenizer" and vocabulary.chat_template is not None:
        # T5's class knows its sentinels by their number; chat tokens have to be named.
        flags = {"special": True, "normalized": False, "lstrip": False, "rstrip": False}
        chat = {str(index): {"content": text, **flags} for text, index in vocabulary.added if text in CHAT}
        tokenizer_folder.write_json(path, content | {"added_tokens_decoder": chat})


def measure(vocabulary: Vocabulary, texts: Iterable[str]) -> dict[str, float]:
    """How a vocabulary fits texts; words stand between spaces, coverage is the share (0-1) of tokens that are known.

    Raises:
      ValueError: no text.
    """
    tokens = size = words = unknown = 0
    seconds = 0.0
    for text in texts:
        begun = time.perf_counter()
        ids = vocabulary.encode(text)
        seconds += time.perf_counter() - begun
        tokens, size, words = tokens + len(ids), size + len(text.encode()), words + len(text.split())
        unknown += 0 if vocabulary.unk is None else ids.count(vocabulary.unk)
    if not tokens or not words:
        raise ValueError("the input holds no text, only empty lines; give files with text")
    return {
        "tokens": tokens,
        "bytes": size,
        "words": words,
        "unknown": unknown,
        "tokens_per_byte": tokens / size,
        "tokens_per_word": tokens / words,
        "coverage": 1 - unknown / tokens,
        "seconds": seconds,
        "bytes_per_second": size / max(seconds, 1e-9),
    }
