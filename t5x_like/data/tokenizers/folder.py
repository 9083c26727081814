"""Reads and writes the vocabulary of a Hugging Face folder, in the files of transformers."""

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t5x_like.data.tokenizers import conversion, loading, vocabularies
from t5x_like.data.tokenizers.huggingface import (
    TOKENIZER,
    TokenizerVocabulary,
    panics_as_errors,
    parse_tokenizer,
)
from t5x_like.data.tokenizers.sentencepiece import SentencePieceModel
from t5x_like.data.tokenizers.settings import BERT_KINDS, SPECIAL, Settings, read_json
from t5x_like.run_dir import RunDir
from t5x_like.types import PathLike, Vocabulary

if TYPE_CHECKING:
    from tokenizers import AddedToken

SAVED = "vocabulary.json"
FILES = {TOKENIZER, "spiece.model", "tokenizer.model", "vocab.txt", "vocab.json"}
FIRST_SENTINEL = "first_sentinel"  # our entry in tokenizer_config.json; a ByT5Tokenizer without it has ByT5's sentinels
BYTES_CLASSES = ("ByT5Tokenizer", "byt5")
T5_CLASSES = ("T5Tokenizer", "T5TokenizerFast", "MT5Tokenizer", "MT5TokenizerFast", "t5", "mt5", "umt5")
LLAMA_CLASSES = (
    *("LlamaTokenizer", "LlamaTokenizerFast", "GemmaTokenizer", "GemmaTokenizerFast"),
    *("llama", "mistral", "mixtral", "gemma", "gemma2"),
)


def locate(folder: PathLike) -> Path:
    """The folder itself or, if it is a run directory, its folder `vocabulary`."""
    inner = Path(folder) / "vocabulary"
    return inner if (inner / SAVED).is_file() else Path(folder)


def has_tokenizer(folder: PathLike) -> bool:
    """Whether a folder or run directory describes a tokenizer; one with only weights does not."""
    folder = locate(folder)
    names = {path.name for path in folder.glob("*")}
    return bool(names & {*FILES, SAVED}) or Settings.read(folder).kind in BYTES_CLASSES


def read_folder(folder: PathLike, vocab_size: int | None = None) -> Vocabulary:
    """The vocabulary of a run directory, of a folder that a vocabulary's `save` wrote, or of a Hugging Face folder, from the
    first of tokenizer.json, spiece.model, tokenizer.model, vocab.txt, and vocab.json with merges.txt that exists.

    `vocab_size` is the size of the model's embedding table (default: that of config.json, else the tokenizer's own); a saved
    vocabulary has its own. A run directory without a tokenizer (its model was imported without one) stands for bytes, with a
    warning.

    Raises:
      ValueError: no tokenizer, a broken file, a tokenizer with more ids than `vocab_size`, or a class of tokenizer that
        these files do not describe.
    """
    folder = locate(folder)
    if (folder / SAVED).is_file():
        return loading.load(folder)
    if RunDir(folder).config.is_file() and not has_tokenizer(folder):
        warnings.warn(
            f"the run {folder} has no tokenizer: text is read as bytes, if VOCABULARY is not set", stacklevel=2
        )
        return vocabularies.ByteVocabulary()
    try:
        return read_files(folder, vocab_size)
    except (AttributeError, IndexError, KeyError, OverflowError, RecursionError, TypeError) as error:
        raise ValueError(
            f"{folder}: a tokenizer file has an unexpected value ({type(error).__name__}: {error}); download it again"
        ) from error


def read_files(folder: Path, vocab_size: int | None) -> Vocabulary:
    """The vocabulary of a folder, see `read_folder`; unexpected values in its files may raise any error."""
    settings = Settings.read(folder)
    vocab_size = settings.vocab_size if vocab_size is None else vocab_size
    names = {path.name for path in folder.glob("*")}
    if TOKENIZER in names:
        read_json(folder / TOKENIZER)
        return from_tokenizer_json((folder / TOKENIZER).read_bytes().decode(), settings, vocab_size, folder)
    if settings.kind in BYTES_CLASSES:
        sentinel = settings.tokenizer.get(FIRST_SENTINEL, vocabularies.BYT5_SENTINEL)
        return vocabularies.ByteVocabulary(settings.tokenizer.get("extra_ids", 125), sentinel)
    for name in ("spiece.model", "tokenizer.model"):
        if name in names:
            return read_sentencepiece(folder / name, settings, vocab_size)
    if "vocab.txt" in names:
        text = conversion.wordpiece_json(folder / "vocab.txt", settings, added_tokens(folder, settings))
        return from_tokenizer_json(text, settings, vocab_size, folder)
    if {"vocab.json", "merges.txt"} <= names:
        merges = conversion.read_merges(folder / "merges.txt")
        table = read_json(folder / "vocab.json")
        text = conversion.byte_level_json(table, merges, settings, added_tokens(folder, settings))
        return from_tokenizer_json(text, settings, vocab_size, folder)
    raise ValueError(
        f"{folder} holds no tokenizer (found: {', '.join(sorted(names)) or 'nothing'}); it needs tokenizer.json, "
        "spiece.model, tokenizer.model, vocab.txt, or vocab.json with merges.txt"
    )


def from_tokenizer_json(text: str, settings: Settings, vocab_size: int | None, folder: Path) -> TokenizerVocabulary:
    """The vocabulary of a tokenizer.json, with the special ids of its folder."""
    tokenizer = parse_tokenizer(text)
    table = tokenizer.get_vocab(with_added_tokens=True)
    ids = settings.special_ids(table.get)
    first = table.get("<extra_id_0>")
    count = 0
    while first is not None and table.get(f"<extra_id_{count}>") == first - count:
        count += 1
    add_bos = settings.tokenizer.get("add_bos_token")
    if add_bos is None:  # whether the post-processor adds it
        with panics_as_errors():
            plain, special = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
        add_bos = special[:1] == [ids["bos"]] != plain[:1]
    return TokenizerVocabulary(
        text,
        max(table.values()) + 1 if vocab_size is None else vocab_size,
        **{"add_bos": bool(add_bos) and ids["bos"] is not None} | ids,
        extra_ids=count,
        sentinel=first,
        chat_template=settings.chat_template(folder),
    )


def read_sentencepiece(path: Path, settings: Settings, vocab_size: int | None) -> SentencePieceModel:
    """The vocabulary of T5's or LLaMA's kind of SentencePiece file, with the special ids of its folder.

    Raises:
      ValueError: the file belongs to another kind of tokenizer, or is not a SentencePiece model.
    """
    kind = settings.kind or ("t5" if path.name == "spiece.model" else "llama")
    if kind not in T5_CLASSES + LLAMA_CLASSES:
        raise ValueError(
            f"{path} belongs to a {kind}, whose ids are not those of its SentencePiece file; save its tokenizer.json with "
            "transformers (AutoTokenizer.from_pretrained(folder).save_pretrained(folder))"
        )
    model = path.read_bytes()
    processor = SentencePieceModel(model, 2**31).processor
    pieces = processor.vocab_size()
    added: dict[str, int] = {}
    if kind in T5_CLASSES:
        fits = vocab_size is None or pieces + 100 <= vocab_size
        extra = settings.tokenizer.get("extra_ids", 100 if fits else 0)
        added |= {f"<extra_id_{i}>": pieces + extra - 1 - i for i in range(extra)}
    model_ids = {kind: getattr(processor, f"{kind}_id")() for kind in ("pad", "eos", "unk", "bos")}
    model_ids = {kind: index for kind, index in model_ids.items() if index >= 0}
    added |= {processor.id_to_piece(index): index for index in model_ids.values()}
    words = []
    for token, index in added_tokens(path.parent, settings).items():
        if (token.lstrip or token.rstrip) and not token.content.startswith("<extra_id_"):
            raise ValueError(
                f"{path.parent}: the added token {token.content!r} absorbs the spaces around it, which is only supported "
                "in a tokenizer.json; save one with transformers"
            )
        words += [] if token.special or token.content in added else [token.content]
        added[token.content] = index

    def find(text: str) -> int | None:
        index = processor.piece_to_id(text)
        return added.get(text, None if index == processor.unk_id() else index)

    named = {kind: index for kind, index in settings.special_ids(find).items() if index is not None}
    ids: dict[str, Any] = {"mask": None} | model_ids | named
    t5 = kind in T5_CLASSES
    if t5 and "decoder_start_token_id" not in settings.config:
        ids |= {"bos": ids.get("pad"), "add_bos": "pad" in ids}  # T5 shifts targets right and fills with padding
    add_bos = bool(settings.tokenizer.get("add_bos_token", not t5)) and ids.get("bos") is not None
    return SentencePieceModel(
        model,
        max([pieces - 1, *added.values()]) + 1 if vocab_size is None else vocab_size,
        **{"add_bos": add_bos} | ids,
        add_eos=bool(settings.tokenizer.get("add_eos_token", t5)),
        extra_ids=sum(text.startswith("<extra_id_") for text in added),
        added=tuple(added.items()),
        words=tuple(text for text in words if added[text] not in (*ids.values(), *ids.get("stop_ids", ()))),
        legacy=settings.tokenizer.get("legacy") is not False,
        chat_template=settings.chat_template(path.parent),
    )


def added_tokens(folder: Path, settings: Settings) -> dict["AddedToken", int]:
    """{AddedToken: id} of the tokens that a folder without tokenizer.json adds."""
    from tokenizers import AddedToken

    tokens = {}
    for index, entry in settings.tokenizer.get("added_tokens_decoder", {}).items():
        options = {k: entry[k] for k in ("single_word", "lstrip", "rstrip", "normalized", "special") if k in entry}
        tokens[entry["content"]] = (AddedToken(entry["content"], **options), int(index))
    if (folder / "added_tokens.json").exists():
        special = settings.special_texts()
        for text, index in read_json(folder / "added_tokens.json").items():
            tokens.setdefault(text, (AddedToken(text, normalized=False, special=text in special), index))
    return dict(sorted(tokens.values(), key=lambda pair: pair[1]))


def export(vocabulary: Vocabulary, folder: PathLike) -> None:
    """Writes the files from which transformers and `read_folder` read a vocabulary; config.json is not touched.

    If there are several stop ids, they are added to generation_config.json.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # BERT names its eos and bos sep and cls.
    names = BERT_KINDS if getattr(vocabulary, "model_type", None) == "WordPiece" else {}
    tokens = {f"{names.get(kind, kind)}_token": token_text(vocabulary, kind) for kind in SPECIAL}
    tokens = {name: text for name, text in tokens.items() if text}
    settings: dict[str, Any]
    if isinstance(vocabulary, vocabularies.ByteVocabulary):
        settings = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": vocabulary.extra_ids}
        settings |= {FIRST_SENTINEL: vocabulary.sentinel}
    elif isinstance(vocabulary, TokenizerVocabulary):
        (folder / TOKENIZER).write_bytes(vocabulary.json.encode())
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    else:
        assert isinstance(vocabulary, vocabularies.SentencePieceVocabulary | SentencePieceModel)
        settings = sentencepiece_settings(vocabulary)
        t5 = settings["tokenizer_class"] == "T5Tokenizer"
        (folder / ("spiece.model" if t5 else "tokenizer.model")).write_bytes(vocabulary.model)
    template = {} if vocabulary.chat_template is None else {"chat_template": vocabulary.chat_template}
    write_json(folder / "tokenizer_config.json", settings | tokens | template)
    write_json(folder / "special_tokens_map.json", tokens)
    if len(vocabulary.stop_ids) > 1:
        path = folder / "generation_config.json"
        write_json(path, (read_json(path) if path.exists() else {}) | {"eos_token_id": list(vocabulary.stop_ids)})


def token_text(vocabulary: Vocabulary, kind: str) -> str | None:
    """The text of a special token; None if there is none, or if bos is only padding."""
    index = getattr(vocabulary, kind)
    if index is None or (kind == "bos" and index == vocabulary.pad):
        return None
    return vocabulary.token(index)


def sentencepiece_settings(vocabulary: vocabularies.SentencePieceVocabulary | SentencePieceModel) -> dict[str, Any]:
    """The tokenizer_config.json of a SentencePiece vocabulary, T5's or LLaMA's kind."""
    if isinstance(vocabulary, vocabularies.SentencePieceVocabulary) or vocabulary.add_eos:
        return {"tokenizer_class": "T5Tokenizer", "extra_ids": vocabulary.extra_ids, "legacy": True}
    words = vocabulary.words
    tokens = {
        str(index): {
            "content": text,
            "special": text not in words,
            "normalized": False,
            "lstrip": False,
            "rstrip": False,
        }
        for text, index in vocabulary.added
    }
    return {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": vocabulary.add_bos,
        "add_eos_token": False,
        "legacy": vocabulary.legacy,
        "added_tokens_decoder": tokens,
    }


def write_json(path: Path, content: dict) -> None:
    """Writes an indented JSON file."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
