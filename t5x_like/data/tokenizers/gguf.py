"""The tokenizer of a GGUF file, from its metadata: byte-level BPE, and SentencePiece BPE."""

import struct
from collections.abc import Mapping

from t5x_like.data.tokenizers import conversion
from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.data.tokenizers.sentencepiece import SentencePieceModel

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # GGUF's token types, which are SentencePiece's
# The names of llama.cpp for ways of splitting text. "default" is what files before them were taken for.
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
    """The vocabulary that a GGUF file describes; `fields` are its metadata, name -> Python value.

    Raises:
      ValueError: a kind of tokenizer or a way of splitting text that is not known here, or a field that is missing.
    """
    kind = needed(fields, "model")
    makers = {"gpt2": of_bpe, "llama": of_sentencepiece}
    if kind not in makers:
        raise ValueError(
            f"tokenizer.ggml.model={kind!r} is not read here, only {' and '.join(makers)}; use the tokenizer.json of the "
            "model's own folder"
        )
    tokens = needed(fields, "tokens")
    types = fields.get("tokenizer.ggml.token_type") or [NORMAL] * len(tokens)
    if len(types) != len(tokens):
        raise ValueError(f"{len(tokens)} tokens, but {len(types)} token types; the file is damaged: fetch it again")
    return makers[kind](fields, list(tokens), list(types), len(tokens) if vocab_size is None else vocab_size)


def needed(fields: Mapping, name: str):
    """The field tokenizer.ggml.`name`."""
    value = fields.get(f"tokenizer.ggml.{name}")
    if value is None:
        raise ValueError(
            f"the GGUF metadata have no tokenizer.ggml.{name}; use the tokenizer.json of the model's own folder"
        )
    return value


def special_ids(fields: Mapping, adds_bos: bool) -> dict:
    """Special ids by field of a vocabulary; `adds_bos` is what holds where the file does not say."""

    def index(name: str) -> int | None:
        value = fields.get(f"tokenizer.ggml.{name}_token_id")
        return None if value is None or value in (-1, 2**32 - 1) else int(value)

    bos, eos = index("bos"), index("eos")
    stops = (eos, index("eot"), index("eom"))
    return {
        "pad": index("padding"),
        "eos": eos,
        "unk": index("unknown"),
        "bos": bos,
        "mask": index("mask"),
        "add_bos": bool(fields.get("tokenizer.ggml.add_bos_token", adds_bos)) and bos is not None,
        "stop_ids": tuple(dict.fromkeys(i for i in stops if i is not None)),
        "chat_template": fields.get("tokenizer.chat_template"),
    }


def of_bpe(fields: Mapping, tokens: list[str], types: list[int], vocab_size: int) -> TokenizerVocabulary:
    """Byte-level BPE, with the split that tokenizer.ggml.pre names."""
    from tokenizers import AddedToken

    name = fields.get("tokenizer.ggml.pre")
    if name not in SPLITS:
        raise ValueError(
            f"tokenizer.ggml.pre={name!r} is no way of splitting text that is known here ({', '.join(SPLITS)}); use the "
            "tokenizer.json of the model's own folder, or add the split to gguf_tokenizer.SPLITS"
        )
    split = SPLITS[name]
    # Unused tokens pad the table; a text must not find them.
    table = {token: i for i, token in enumerate(tokens) if types[i] != UNUSED}
    merges = [tuple(merge.split(" ", 1)) for merge in needed(fields, "merges")]
    made = conversion.bpe(table, merges, split, fields.get("tokenizer.ggml.add_space_prefix"))
    ids = special_ids(fields, adds_bos=split == "llama-bpe")
    if ids["add_bos"]:
        made.post_processor = conversion.begun_with(tokens[ids["bos"]], ids["bos"])
    added = {
        AddedToken(token, normalized=False, special=types[i] == CONTROL): i
        for i, token in enumerate(tokens)
        if types[i] in (CONTROL, USER_DEFINED)
    }
    return TokenizerVocabulary(conversion.finished(made, added), vocab_size, **ids)


def of_sentencepiece(fields: Mapping, tokens: list[str], types: list[int], vocab_size: int) -> SentencePieceModel:
    """SentencePiece BPE: the tables are put together to a model file, which the library reads."""
    scores = needed(fields, "scores")
    ids = special_ids(fields, adds_bos=True)
    if ids["unk"] is None:
        ids["unk"] = types.index(UNKNOWN) if UNKNOWN in types else None
    if ids["unk"] is None:
        raise ValueError("the GGUF metadata name no tokenizer.ggml.unknown_token_id; SentencePiece needs one")
    types[ids["unk"]] = UNKNOWN
    prefix = bool(fields.get("tokenizer.ggml.add_space_prefix", True))
    shrink = bool(fields.get("tokenizer.ggml.remove_extra_whitespaces", False))
    model = model_file(tokens, scores, types, ids, prefix, shrink)
    added = tuple((token, i) for i, token in enumerate(tokens) if types[i] in (CONTROL, UNKNOWN))
    return SentencePieceModel(model, vocab_size, **ids, added=added)


def model_file(tokens, scores, types, ids: dict, prefix: bool, shrink: bool) -> bytes:
    """A serialised sentencepiece.ModelProto of BPE with no normalisation; field numbers are those of its .proto."""
    pieces = b"".join(
        chunk(1, chunk(1, token.encode()) + key(2, 5) + struct.pack("<f", score) + number(3, kind))
        for token, score, kind in zip(tokens, scores, types, strict=True)
    )
    special = {40: ids["unk"], 41: ids["bos"], 42: ids["eos"], 43: ids["pad"]}
    trainer = number(3, 2) + number(4, len(tokens)) + number(35, BYTE in types)
    trainer += b"".join(number(field, -1 if index is None else index) for field, index in special.items())
    # The library wants the names of the special pieces too.
    names = {45: ids["unk"], 46: ids["bos"], 47: ids["eos"], 48: ids["pad"]}
    trainer += b"".join(chunk(field, tokens[i].encode()) for field, i in names.items() if i is not None)
    normalizer = chunk(1, b"identity") + number(3, prefix) + number(4, shrink) + number(5, True)
    return pieces + chunk(2, trainer) + chunk(3, normalizer)


def varint(value: int) -> bytes:
    """Protobuf's variable-length integer; negative ones are 64 bits of two's complement."""
    value, made = value % 2**64, bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes([*made, value])


def key(field: int, wire: int) -> bytes:
    return varint(field << 3 | wire)


def number(field: int, value: int) -> bytes:
    return key(field, 0) + varint(int(value))


def chunk(field: int, content: bytes) -> bytes:
    return key(field, 2) + varint(len(content)) + content
