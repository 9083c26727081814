"""The tokenizer of a GGUF file, from its metadata: byte-level BPE and SentencePiece BPE."""

import struct
from collections.abc import Callable, Mapping
from typing import Any

from t5x_like.data.tokenizers import conversion
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.data.tokenizers.model_proto import CONTROL, NORMAL, UNKNOWN, UNUSED, USER_DEFINED, serialize_model
from t5x_like.data.tokenizers.sentencepiece import SentencePieceModel

# llama.cpp's names of pre-tokenizers. "default" is assumed for files older than these names.
SPLITS = {
    "gpt-2": "gpt-2",
    "default": "gpt-2",
    "smollm": "smollm",
    "starcoder": "smollm",
    "llama-bpe": "llama-bpe",
    "llama3": "llama-bpe",
    "llama-v3": "llama-bpe",
    "qwen2": "qwen2",
}


def from_gguf(fields: Mapping, vocab_size: int | None = None) -> TokenizerVocabulary | SentencePieceModel:
    """The vocabulary in the metadata `fields` of a GGUF file, {name: Python value}.

    Raises:
      ValueError: the kind of tokenizer or its pre-tokenizer is not supported, or a field is missing.
    """
    try:
        return make_vocabulary(fields, vocab_size)
    except (AttributeError, IndexError, KeyError, OverflowError, TypeError, struct.error) as error:
        raise ValueError(
            f"the tokenizer in the GGUF metadata has an unexpected value ({type(error).__name__}: {error}); use the "
            "tokenizer.json of the model's own folder"
        ) from error


def make_vocabulary(fields: Mapping, vocab_size: int | None) -> TokenizerVocabulary | SentencePieceModel:
    """The vocabulary of `from_gguf`; unexpected values in the metadata may raise any error."""
    kind = require_field(fields, "model")
    makers: dict[str, Callable[..., TokenizerVocabulary | SentencePieceModel]] = {
        "gpt2": make_bpe,
        "llama": make_sentencepiece,
    }
    if kind not in makers:
        raise ValueError(
            f"tokenizer.ggml.model={kind!r} is not supported, only {' and '.join(makers)}; use the tokenizer.json of the "
            "model's own folder"
        )
    tokens = require_field(fields, "tokens")
    types = fields.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise ValueError(f"{len(tokens)} tokens, but {len(types)} token types; the file is damaged: download it again")
    return makers[kind](fields, list(tokens), list(types), len(tokens) if vocab_size is None else vocab_size)


def require_field(fields: Mapping, name: str) -> Any:
    """The field tokenizer.ggml.`name`.

    Raises:
      ValueError: it is missing.
    """
    value = fields.get(f"tokenizer.ggml.{name}")
    if value is None:
        raise ValueError(
            f"the GGUF metadata have no tokenizer.ggml.{name}; use the tokenizer.json of the model's own folder"
        )
    return value


def special_ids(fields: Mapping, add_bos: bool) -> dict[str, Any]:
    """Special ids by field of a vocabulary; `add_bos` is the default of tokenizer.ggml.add_bos_token."""

    def index(name: str) -> int | None:
        value = fields.get(f"tokenizer.ggml.{name}_token_id")
        return None if value is None or value in (-1, 2**32 - 1) else int(value)

    template = fields.get("tokenizer.chat_template")
    if not isinstance(template, str | None):
        raise ValueError(f"tokenizer.chat_template={template!r} is not text; the file is damaged: download it again")
    bos, eos = index("bos"), index("eos")
    stops = (eos, index("eot"), index("eom"))
    return {
        "pad": index("padding"),
        "eos": eos,
        "unk": index("unknown"),
        "bos": bos,
        "mask": index("mask"),
        "add_bos": bool(fields.get("tokenizer.ggml.add_bos_token", add_bos)) and bos is not None,
        "stop_ids": tuple(dict.fromkeys(i for i in stops if i is not None)),
        "chat_template": template,
    }


def make_bpe(fields: Mapping, tokens: list[str], types: list[int], vocab_size: int) -> TokenizerVocabulary:
    """Byte-level BPE with the pre-tokenizer that tokenizer.ggml.pre names.

    Raises:
      ValueError: the pre-tokenizer is not supported, or a field is missing.
    """
    from tokenizers import AddedToken

    name = fields.get("tokenizer.ggml.pre")
    if name not in SPLITS:
        raise ValueError(
            f"tokenizer.ggml.pre={name!r} is not a supported pre-tokenizer ({', '.join(SPLITS)}); use the tokenizer.json "
            "of the model's own folder, or add the pre-tokenizer to gguf.SPLITS"
        )
    split = SPLITS[name]
    # Unused tokens pad the table; they must not match in a text.
    table = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    merges = [tuple(merge.split(" ", 1)) for merge in require_field(fields, "merges")]
    tokenizer = conversion.build_bpe(table, merges, split, fields.get("tokenizer.ggml.add_space_prefix"))
    ids = special_ids(fields, add_bos=split == "llama-bpe")
    if ids["add_bos"]:
        tokenizer.post_processor = conversion.prepend_token(tokens[ids["bos"]], ids["bos"])
    added = {
        AddedToken(token, normalized=False, special=types[i] == CONTROL): i
        for i, token in enumerate(tokens)
        if types[i] in (CONTROL, USER_DEFINED)
    }
    return TokenizerVocabulary(conversion.to_json(tokenizer, added), vocab_size, **ids)


def make_sentencepiece(fields: Mapping, tokens: list[str], types: list[int], vocab_size: int) -> SentencePieceModel:
    """SentencePiece BPE: the tables are serialized as a model file, which the library reads.

    Raises:
      ValueError: a field is missing.
    """
    scores = require_field(fields, "scores")
    ids = special_ids(fields, add_bos=True)
    if ids["unk"] is None:
        ids["unk"] = types.index(UNKNOWN) if UNKNOWN in types else None
    if ids["unk"] is None:
        raise ValueError(
            "the GGUF metadata have no tokenizer.ggml.unknown_token_id, which SentencePiece needs; use the "
            "tokenizer.model of the model's own folder"
        )
    types[ids["unk"]] = UNKNOWN
    prefix = bool(fields.get("tokenizer.ggml.add_space_prefix", True))
    shrink = bool(fields.get("tokenizer.ggml.remove_extra_whitespaces", False))
    model = serialize_model(tokens, scores, types, ids, prefix, shrink)
    added = tuple((token, i) for i, token in enumerate(tokens) if types[i] in (CONTROL, UNKNOWN))
    return SentencePieceModel(model, vocab_size, **ids, added=added)
