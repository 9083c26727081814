"""Trains tokenizers on text files with the `tokenizers` and `sentencepiece` libraries, and measures them on a text.

A kind is a function `(texts, vocab_size, extra_ids, chat, options) -> vocabulary`; `save` writes a Hugging Face folder.
"""

from __future__ import annotations

import collections
import dataclasses
import gzip
import io
import itertools
import json
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t5x_like.data.tokenizers import conversion
from t5x_like.data.tokenizers import folder as tokenizer_folder
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.data.tokenizers.sentencepiece import SentencePieceModel
from t5x_like.files.lines import decode_line, skip_mark
from t5x_like.types import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from tokenizers.normalizers import Normalizer

CHUNK = 1 << 16  # bytes of a text file, in whole lines, that form one text
SENTENCE = 4000  # characters; SentencePiece silently drops longer lines, so they are cut
CHAT = ("<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@dataclasses.dataclass(frozen=True)
class Options:
    """Options of some kinds: the pre-tokenizer of byte-level BPE (`conversion.SPLITS`), lower case for WordPiece."""

    split: str = "llama-bpe"
    lowercase: bool = False

    def __post_init__(self):
        if self.split not in conversion.SPLITS:
            raise ValueError(f"split={self.split!r} is not known; give one of {', '.join(conversion.SPLITS)}")


def read_texts(paths: Iterable[Path], field: str = "text") -> Iterator[str]:
    """Yields the `field` of each line of .jsonl files, and other files in pieces of whole lines. Both may be .gz.

    Raises:
      ValueError: a line has no such field, a file is not UTF-8, or a .gz file is damaged; the message names the file.
    """
    for path in paths:
        open_file = gzip.open if path.suffix == ".gz" else open
        try:
            with open_file(path, "rb") as file:
                is_jsonl = path.name.removesuffix(".gz").endswith(".jsonl")
                yield from read_fields(path, skip_mark(file), field) if is_jsonl else read_parts(path, skip_mark(file))
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path} is not a complete .gz file ({error}); download it again") from error


def read_parts(path: Path, lines: Iterable[bytes]) -> Iterator[str]:
    """Joins lines to texts of about CHUNK bytes; `path` is for error messages.

    Raises:
      ValueError: a line is not UTF-8.
    """
    part, size = [], 0
    for line in lines:
        part.append(line)
        size += len(line)
        if size >= CHUNK:
            yield decode_line(b"".join(part), str(path))
            part, size = [], 0
    if part:
        yield decode_line(b"".join(part), str(path))


def read_fields(path: Path, lines: Iterable[bytes], field: str) -> Iterator[str]:
    """Yields `field` of each line of JSON; `path` is for error messages.

    Raises:
      ValueError: a line is not UTF-8 or not JSON, or has no such field.
    """
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        text = decode_line(line, f"{path}, line {number}")
        try:
            content = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is not JSON: {error}") from error
        if not isinstance(content, dict) or not isinstance(content.get(field), str):
            names = ", ".join(content) if isinstance(content, dict) else type(content).__name__
            raise ValueError(f"{path}, line {number} has no text field={field!r} (found: {names}); name another field")
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
    """Trains a vocabulary of a kind in `KINDS`. `vocab_size` includes special tokens, chat tokens and sentinels.

    Byte-level BPE, WordPiece and Unigram may have fewer ids if the text allows no more merges.

    Raises:
      ValueError: an unknown kind, no text, or a vocab_size that is too small (or, for SentencePiece, too large).
    """
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r} is not known; give one of {', '.join(KINDS)}")
    if extra_ids < 0:
        raise ValueError(f"extra_ids={extra_ids} must be at least 0; T5 has 100")
    texts = iter(texts)
    first = next((text for text in texts if text.strip()), None)
    if first is None:
        raise ValueError("the input has no text, only empty lines; give files with text")
    return KINDS[kind](itertools.chain([first], texts), vocab_size, extra_ids, CHAT * chat, options or Options())


def check_vocab_size(vocab_size: int, needed: int, tokens: str) -> None:
    """Checks that `vocab_size` exceeds the `needed` ids of fixed `tokens`.

    Raises:
      ValueError: it does not.
    """
    if vocab_size <= needed:
        raise ValueError(f"vocab_size={vocab_size} is too small: {tokens} take {needed}; give {needed + 1} or more")


def sentinels(extra_ids: int) -> list[str]:
    """T5's sentinels, the first one last, so that it gets the largest id."""
    return [f"<extra_id_{i}>" for i in reversed(range(extra_ids))]


def byte_level_bpe(
    texts: Iterable[str], vocab_size: int, extra_ids: int, chat: tuple[str, ...], options: Options
) -> TokenizerVocabulary:
    """Trains GPT-2's kind of tokenizer (Radford et al. 2019), which encodes any text without loss."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    special = ["<|endoftext|>", "<|pad|>", *chat]
    check_vocab_size(vocab_size, 256 + len(special) + extra_ids, "256 bytes, special tokens and sentinels")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = conversion.SPLITS[options.split](False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - extra_ids, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return finish_tokenizer(tokenizer, extra_ids, chat, pad="<|pad|>", eos="<|endoftext|>")


def wordpiece(
    texts: Iterable[str], vocab_size: int, extra_ids: int, chat: tuple[str, ...], options: Options
) -> TokenizerVocabulary:
    """Trains BERT's kind of tokenizer (Devlin et al. 2019), with [CLS] and [SEP] and the 1000 most frequent characters.

    The texts are held in memory to order their characters, since the library's order differs between runs.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    special = [*conversion.BERT_NAMES.values(), *chat]
    check_vocab_size(vocab_size, len(special) + extra_ids, "special tokens and sentinels")
    texts = list(texts)
    splitter = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    splitter.normalizer = normalizers.BertNormalizer(lowercase=options.lowercase)
    splitter.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    alphabet = frequent_characters(texts, splitter.normalizer, 1000)
    inner = [f"##{c}" for c in alphabet if len(splitter.pre_tokenizer.pre_tokenize_str(f"a{c}")) == 1]
    needed = len(special) + len(alphabet) + len(inner) + extra_ids
    check_vocab_size(vocab_size, needed, "the text's characters, special tokens and sentinels")
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size - extra_ids,
        special_tokens=[*special, *inner],
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        show_progress=False,
    )
    splitter.train_from_iterator(texts, trainer)
    # A new tokenizer, since the trainer's special tokens would match anywhere in a text.
    tokenizer = Tokenizer(models.WordPiece(splitter.get_vocab(), unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer, tokenizer.pre_tokenizer = splitter.normalizer, splitter.pre_tokenizer
    tokenizer.add_special_tokens(special)
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")],
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "bos": "[CLS]", "eos": "[SEP]", "mask": "[MASK]"}
    return finish_tokenizer(tokenizer, extra_ids, chat, **names)


def frequent_characters(texts: Sequence[str], normalizer: Normalizer, count: int) -> list[str]:
    """The `count` most frequent characters of normalized texts, without spaces, sorted; ties go to the smaller one."""
    raw: collections.Counter[str] = collections.Counter()
    for text in texts:
        raw.update(text)
    counts: collections.Counter[str] = collections.Counter()
    for character, number in raw.items():
        for normalized in normalizer.normalize_str(character).strip():
            counts[normalized] += number
    return sorted(sorted(counts, key=lambda character: (-counts[character], character))[:count])


def unigram(
    texts: Iterable[str], vocab_size: int, extra_ids: int, chat: tuple[str, ...], options: Options
) -> TokenizerVocabulary:
    """Trains SentencePiece's Unigram (Kudo 2018) as a tokenizer.json, like T5's fast tokenizer.

    Texts are normalized by NFKC, and runs of white space to one space.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    # SentencePiece's trainer is deterministic, that of the tokenizers library is not.
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    size = vocab_size - extra_ids - len(chat)
    processor = SentencePieceModel(train_sentencepiece(texts, "unigram", size, 3, **ids), vocab_size).processor
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.vocab_size())]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    one_space = normalizers.Replace(Regex(r"\s+"), " ")
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), one_space, normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    names = ("<pad>", "</s>", "<unk>", *chat)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return finish_tokenizer(tokenizer, extra_ids, chat, pad="<pad>", eos="</s>", unk="<unk>")


def finish_tokenizer(tokenizer: Tokenizer, extra_ids: int, chat: tuple[str, ...], **names: str) -> TokenizerVocabulary:
    """Adds sentinels to a trained tokenizer; `names` are the texts of its special tokens by kind."""
    tokenizer.add_special_tokens(sentinels(extra_ids))
    size = tokenizer.get_vocab_size(with_added_tokens=True)
    ids: dict[str, Any] = {kind: tokenizer.token_to_id(text) for kind, text in names.items()}
    chat_ends: list[Any] = [tokenizer.token_to_id(text) for text in chat[1:]]
    return TokenizerVocabulary(
        tokenizer.to_str(),
        size,
        **ids,
        add_bos="bos" in ids,
        stop_ids=(ids["eos"], *chat_ends),
        extra_ids=extra_ids,
        sentinel=tokenizer.token_to_id("<extra_id_0>"),
        chat_template=CHATML if chat else None,
    )


def sentencepiece_unigram(
    texts: Iterable[str], vocab_size: int, extra_ids: int, chat: tuple[str, ...], options: Options
) -> SentencePieceModel:
    """Trains T5's kind of tokenizer (Raffel et al. 2020): NFKC; padding 0, eos 1, unknown 2; sentinels above the pieces."""
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "control_symbols": list(chat)}
    model = train_sentencepiece(texts, "unigram", vocab_size - extra_ids, 3 + len(chat), **ids)
    special = {"pad": 0, "eos": 1, "unk": 2, "bos": 0, "add_bos": True, "add_eos": True}
    return finish_sentencepiece(model, vocab_size, extra_ids, chat, special)


def sentencepiece_bpe(
    texts: Iterable[str], vocab_size: int, extra_ids: int, chat: tuple[str, ...], options: Options
) -> SentencePieceModel:
    """Trains LLaMA's kind of tokenizer (Touvron et al. 2023): no normalization, single digits, byte fallback."""
    ids = {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1, "control_symbols": list(chat)}
    lossless = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "split_digits": True}
    lossless |= {"byte_fallback": True, "allow_whitespace_only_pieces": True}
    model = train_sentencepiece(texts, "bpe", vocab_size - extra_ids, 259 + len(chat), **ids, **lossless)
    return finish_sentencepiece(model, vocab_size, extra_ids, chat, {"unk": 0, "bos": 1, "eos": 2, "add_bos": True})


def train_sentencepiece(texts: Iterable[str], model_type: str, size: int, special: int, **settings: Any) -> bytes:
    """Trains a SentencePiece model of `size` pieces, of which `special` are fixed; returns it serialized.

    Raises:
      ValueError: the library cannot train a model of this size on this text.
    """
    import sentencepiece

    check_vocab_size(size, special, "special tokens and bytes, sentinels aside,")
    lines = (line.removesuffix("\r") for text in texts for line in text.split("\n") if line.strip())
    parts = (line[i : i + SENTENCE] for line in lines for i in range(0, len(line), SENTENCE))
    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=parts,
            model_writer=out,
            model_type=model_type,
            vocab_size=size,
            max_sentence_length=4 * SENTENCE,
            num_threads=4,  # fixed, since floating-point sums depend on the number of threads
            minloglevel=2,
            **settings,
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise ValueError(
            f"vocab_size: SentencePiece cannot train {size} pieces, sentinels excluded, on this text ({reason}); give "
            "another vocab_size, or more text"
        ) from error
    return out.getvalue()


def finish_sentencepiece(
    model: bytes, vocab_size: int, extra_ids: int, chat: tuple[str, ...], special: dict[str, Any]
) -> SentencePieceModel:
    """Adds special tokens, chat tokens and sentinels, which are recognised in a text, to a SentencePiece model."""
    pieces = SentencePieceModel(model, vocab_size).processor
    size = pieces.vocab_size()
    ids = (special[kind] for kind in ("pad", "eos", "unk", "bos") if kind in special)
    added = {pieces.id_to_piece(index): index for index in ids} | {text: pieces.piece_to_id(text) for text in chat}
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


KINDS: dict[str, Callable[[Iterable[str], int, int, tuple[str, ...], Options], Vocabulary]] = {
    "bpe": byte_level_bpe,
    "wordpiece": wordpiece,
    "unigram": unigram,
    "sentencepiece_bpe": sentencepiece_bpe,
    "sentencepiece_unigram": sentencepiece_unigram,
}


def save(vocabulary: Vocabulary, folder: Path) -> None:
    """Writes the Hugging Face folder that `folder.read_folder` reads."""
    tokenizer_folder.export(vocabulary, folder)
    path = Path(folder) / "tokenizer_config.json"
    content = tokenizer_folder.read_json(path)
    is_t5 = content["tokenizer_class"] == "T5Tokenizer"
    if is_t5 and isinstance(vocabulary, SentencePieceModel) and vocabulary.chat_template is not None:
        # T5's class derives its sentinels from their number, but chat tokens must be listed.
        flags = {"special": True, "normalized": False, "lstrip": False, "rstrip": False}
        chat = {str(index): {"content": text, **flags} for text, index in vocabulary.added if text in CHAT}
        tokenizer_folder.write_json(path, content | {"added_tokens_decoder": chat})


def measure(vocabulary: Vocabulary, texts: Iterable[str]) -> dict[str, float]:
    """Counts of tokens, bytes, words and unknown tokens on texts, their ratios, and the encoding speed.

    Words are separated by white space. Coverage is the share (0-1) of tokens that are not unknown.

    Raises:
      ValueError: no text.
    """
    tokens = size = words = unknown = 0
    seconds = 0.0
    for text in texts:
        started = time.perf_counter()
        ids = vocabulary.encode(text, literal=True)
        seconds += time.perf_counter() - started
        tokens, size, words = tokens + len(ids), size + len(text.encode()), words + len(text.split())
        unknown += 0 if vocabulary.unk is None else ids.count(vocabulary.unk)
    if not tokens or not words:
        raise ValueError("the input has no text, only empty lines; give files with text")
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
