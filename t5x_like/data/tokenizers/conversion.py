"""Converts older formats to tokenizer.json: BERT's vocab.txt, GPT-2's vocab.json with merges.txt, a GGUF file's tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t5x_like.data.tokenizers.settings import BYTE_LEVEL_CLASSES, Settings
from t5x_like.files.lines import read_lines

if TYPE_CHECKING:
    from tokenizers import AddedToken, Tokenizer
    from tokenizers.pre_tokenizers import PreTokenizer
    from tokenizers.processors import PostProcessor

# Regular expressions from the tokenizer.json files of Llama 3 and Qwen 2; they differ in how they group digits.
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

ROBERTA_CLASSES = ("RobertaTokenizer", "RobertaTokenizerFast", "BartTokenizer", "BartTokenizerFast", "roberta", "bart")
QWEN2_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "qwen2", "qwen3")
ROBERTA_NAMES = {
    "pad": "<pad>",
    "eos": "</s>",
    "unk": "<unk>",
    "bos": "<s>",
    "cls": "<s>",
    "sep": "</s>",
    "mask": "<mask>",
}
BERT_NAMES = {kind: f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep", "mask")}


def wordpiece_json(path: Path, settings: Settings, added: dict[AddedToken, int]) -> str:
    """The tokenizer.json of BERT's vocab.txt, which has one token per line.

    Raises:
      ValueError: the file lacks a special token that BERT needs.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    table = {token: index for index, token in enumerate(read_lines(path))}
    names = {kind: settings.token(kind) or default for kind, default in BERT_NAMES.items()}
    missing = [names[kind] for kind in ("unk", "cls", "sep") if names[kind] not in table]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}; name the file's own tokens in tokenizer_config.json")
    options = settings.tokenizer
    tokenizer = Tokenizer(models.WordPiece(table, unk_token=names["unk"], max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        strip_accents=options.get("strip_accents"),
        lowercase=options.get("do_lower_case", True),
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{names['cls']}:0 $A:0 {names['sep']}:0",
        pair=f"{names['cls']}:0 $A:0 {names['sep']}:0 $B:1 {names['sep']}:1",
        special_tokens=[(names[kind], table[names[kind]]) for kind in ("cls", "sep")],
    )
    special = {AddedToken(n, special=True, normalized=False): table[n] for n in names.values() if n in table}
    return to_json(tokenizer, special | added)


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The pairs of tokens in a merges.txt.

    Raises:
      ValueError: a line is not a pair; the message has its number.
    """
    pairs = []
    for number, line in enumerate(read_lines(path), 1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        tokens = line.split(" ")
        if len(tokens) != 2:
            raise ValueError(f"{path}, line {number}: need two tokens separated by a space, got {line[:60]!r}")
        pairs.append((tokens[0], tokens[1]))
    return pairs


def byte_level_json(
    table: dict[str, int], merges: list[tuple[str, str]], settings: Settings, added: dict[AddedToken, int]
) -> str:
    """The tokenizer.json of a byte-level BPE of GPT-2's, RoBERTa's or Qwen 2's class.

    Raises:
      ValueError: the tokenizer is of another class, or the tables are inconsistent.
    """
    from tokenizers import AddedToken, processors

    kind = settings.kind or "gpt2"
    if kind not in BYTE_LEVEL_CLASSES + ROBERTA_CLASSES + QWEN2_CLASSES:
        raise ValueError(
            f"vocab.json and merges.txt of a {kind} do not define its pre-tokenizer; save its tokenizer.json with "
            "transformers (AutoTokenizer.from_pretrained(folder).save_pretrained(folder))"
        )
    split = "qwen2" if kind in QWEN2_CLASSES else "gpt-2"
    tokenizer = build_bpe(table, merges, split, settings.tokenizer.get("add_prefix_space"))
    names: dict[str, Any] = {name: settings.token(name) for name in ROBERTA_NAMES}
    if kind in ROBERTA_CLASSES:
        names = {name: text or ROBERTA_NAMES[name] for name, text in names.items()}
    elif kind in BYTE_LEVEL_CLASSES + QWEN2_CLASSES:
        names["eos"] = names["eos"] or "<|endoftext|>"
    texts = [n for n in dict.fromkeys(names.values()) if n in table]
    # RoBERTa's mask absorbs the space before it.
    special = {
        AddedToken(n, special=True, normalized=False, lstrip=kind in ROBERTA_CLASSES and n == names["mask"]): table[n]
        for n in texts
    }
    if kind in ROBERTA_CLASSES:
        sep, cls = ((names[name], table[names[name]]) for name in ("sep", "cls"))
        prefix = bool(settings.tokenizer.get("add_prefix_space"))
        tokenizer.post_processor = processors.RobertaProcessing(sep, cls, trim_offsets=True, add_prefix_space=prefix)
    elif settings.tokenizer.get("add_bos_token"):
        tokenizer.post_processor = prepend_token(names["bos"], table[names["bos"]])
    return to_json(tokenizer, special | added)


def build_bpe(
    table: dict[str, int], merges: list[tuple[str, str]], split: str, add_prefix_space: bool | None = False
) -> Tokenizer:
    """The library's byte-level BPE with the pre-tokenizer `split`, one of `SPLITS`.

    Raises:
      ValueError: a merge has tokens that are not in the table.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, processors

    try:
        tokenizer = Tokenizer(models.BPE(table, merges, ignore_merges=split == "llama-bpe"))
    except Exception as error:  # the library raises Exception itself
        raise ValueError(
            f"the table of {len(table)} tokens and its {len(merges)} merges do not fit together: {error}"
        ) from error
    tokenizer.pre_tokenizer = SPLITS[split](bool(add_prefix_space))
    if split == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def split_gpt2(prefix: bool) -> PreTokenizer:
    """GPT-2's pre-tokenizer; `prefix` adds a space before the text."""
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=True)


def split_digits(prefix: bool) -> PreTokenizer:
    """Isolates each digit, then splits as GPT-2."""
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), split_gpt2(prefix)])


def split_by(pattern: str) -> Callable[[bool], PreTokenizer]:
    """A pre-tokenizer that isolates the matches of a regular expression."""

    def build(prefix: bool) -> PreTokenizer:
        from tokenizers import Regex, pre_tokenizers

        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)])

    return build


SPLITS: dict[str, Callable[[bool], PreTokenizer]] = {
    "gpt-2": split_gpt2,
    "smollm": split_digits,
    "llama-bpe": split_by(LLAMA3),
    "qwen2": split_by(QWEN2),
}


def prepend_token(token: str, index: int) -> PostProcessor:
    """A post-processor that puts one token before a text."""
    from tokenizers import processors

    return processors.TemplateProcessing(
        single=[token, "$A"], pair=[token, "$A", f"{token}:1", "$B:1"], special_tokens=[(token, index)]
    )


def to_json(tokenizer: Tokenizer, added: dict[AddedToken, int]) -> str:
    """The tokenizer.json of a tokenizer after adding tokens, given as {token: id}.

    Raises:
      ValueError: the library gives a token another id.
    """
    unique = {token.content: (token, index) for token, index in added.items()}
    for text, (token, index) in sorted(unique.items(), key=lambda item: item[1][1]):
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
        if tokenizer.token_to_id(text) != index:
            raise ValueError(
                f"the added token {text!r} must have id {index}, tokenizers gives it {tokenizer.token_to_id(text)}: the ids "
                "in between are missing; save a tokenizer.json with transformers"
            )
    return tokenizer.to_str()
