"""tokenizer.json files made of older ones: BERT's vocab.txt, GPT-2's vocab.json with merges.txt, a GGUF file's tables."""

from pathlib import Path

# Llama 3's and Qwen 2's, as their tokenizer.json files have them; they differ in how many digits stand together.
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

BYTE_LEVEL_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast", "gpt2", "gptj", "gpt_neo", "opt")
ROBERTA_CLASSES = ("RobertaTokenizer", "RobertaTokenizerFast", "BartTokenizer", "BartTokenizerFast", "roberta", "bart")
QWEN2_CLASSES = ("Qwen2Tokenizer", "Qwen2TokenizerFast", "qwen2", "qwen3")
BERT_NAMES = {kind: f"[{kind.upper()}]" for kind in ("pad", "unk", "cls", "sep", "mask")}


def wordpiece(path: Path, settings, added: dict) -> str:
    """The tokenizer.json of BERT's vocab.txt, a token a line."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    lines = path.read_text(encoding="utf-8").split("\n")
    table = {token: index for index, token in enumerate(lines[:-1] if lines[-1] == "" else lines)}
    names = {kind: settings.text(kind) or usual for kind, usual in BERT_NAMES.items()}
    missing = [names[kind] for kind in ("unk", "cls", "sep") if names[kind] not in table]
    if missing:
        raise ValueError(f"{path} has no {', '.join(missing)}; name its own in tokenizer_config.json")
    options = settings.tokenizer
    made = Tokenizer(models.WordPiece(table, unk_token=names["unk"], max_input_chars_per_word=100))
    made.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=options.get("tokenize_chinese_chars", True),
        strip_accents=options.get("strip_accents"),
        lowercase=options.get("do_lower_case", True),
    )
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(prefix="##")
    made.post_processor = processors.TemplateProcessing(
        single=f"{names['cls']}:0 $A:0 {names['sep']}:0",
        pair=f"{names['cls']}:0 $A:0 {names['sep']}:0 $B:1 {names['sep']}:1",
        special_tokens=[(names[kind], table[names[kind]]) for kind in ("cls", "sep")],
    )
    special = {AddedToken(n, special=True, normalized=False): table[n] for n in names.values() if n in table}
    return finished(made, special | added)


def read_merges(path: Path) -> list[tuple[str, str]]:
    """The pairs of a merges.txt.

    Raises:
      ValueError: a line that is no pair, with its number.
    """
    pairs = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip() or (number == 1 and line.startswith("#version")):
            continue
        pair = tuple(line.split(" "))
        if len(pair) != 2:
            raise ValueError(f"{path}, line {number}: need two tokens with a space between them, got {line[:60]!r}")
        pairs.append(pair)
    return pairs


def byte_level(table: dict[str, int], merges: list[tuple[str, str]], settings, added: dict) -> str:
    """The tokenizer.json of a byte-level BPE of GPT-2's, RoBERTa's or Qwen 2's class.

    Raises:
      ValueError: another class of tokenizer.
    """
    from tokenizers import AddedToken, processors

    kind = settings.kind or "gpt2"
    if kind not in BYTE_LEVEL_CLASSES + ROBERTA_CLASSES + QWEN2_CLASSES:
        raise ValueError(
            f"vocab.json and merges.txt of a {kind} do not say how it splits text; save its tokenizer.json with "
            "transformers (AutoTokenizer.from_pretrained(folder).save_pretrained(folder))"
        )
    made = bpe(table, merges, "qwen2" if kind in QWEN2_CLASSES else "gpt-2", settings.tokenizer.get("add_prefix_space"))
    names = {kind: settings.text(kind) for kind in ("pad", "eos", "unk", "bos", "cls", "sep", "mask")}
    if kind in ROBERTA_CLASSES:
        usual = {
            "pad": "<pad>",
            "eos": "</s>",
            "unk": "<unk>",
            "bos": "<s>",
            "cls": "<s>",
            "sep": "</s>",
            "mask": "<mask>",
        }
        names = {kind: text or usual[kind] for kind, text in names.items()}
    elif kind in BYTE_LEVEL_CLASSES + QWEN2_CLASSES:
        names["eos"] = names["eos"] or "<|endoftext|>"
    texts = [n for n in dict.fromkeys(names.values()) if n in table]
    # RoBERTa's mask takes the space before it.
    special = {
        AddedToken(n, special=True, normalized=False, lstrip=kind in ROBERTA_CLASSES and n == names["mask"]): table[n]
        for n in texts
    }
    if kind in ROBERTA_CLASSES:
        around = ((names[k], table[names[k]]) for k in ("sep", "cls"))
        prefix = bool(settings.tokenizer.get("add_prefix_space"))
        made.post_processor = processors.RobertaProcessing(*around, trim_offsets=True, add_prefix_space=prefix)
    elif settings.tokenizer.get("add_bos_token"):
        made.post_processor = begun_with(names["bos"], table[names["bos"]])
    return finished(made, special | added)


def bpe(table: dict[str, int], merges: list[tuple[str, str]], split: str, add_prefix_space: bool | None = False):
    """The library's byte-level BPE with a way of splitting text, one of `SPLITS`.

    Raises:
      ValueError: a merge of tokens that are not in the table.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, processors

    try:
        made = Tokenizer(models.BPE(table, merges, ignore_merges=split == "llama-bpe"))
    except Exception as error:  # the library raises Exception itself
        raise ValueError(
            f"the table of {len(table)} tokens and its {len(merges)} merges do not fit together: {error}"
        ) from error
    made.pre_tokenizer = SPLITS[split](bool(add_prefix_space))
    if split == "qwen2":
        made.normalizer = normalizers.NFC()
    made.decoder = decoders.ByteLevel()
    made.post_processor = processors.ByteLevel(trim_offsets=False)
    return made


def by_gpt2(prefix: bool):
    from tokenizers import pre_tokenizers

    return pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=True)


def by_digit(prefix: bool):
    """Every digit for itself, the rest as GPT-2."""
    from tokenizers import pre_tokenizers

    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), by_gpt2(prefix)])


def by_pattern(pattern: str):
    """Splits by a regular expression."""

    def build(prefix: bool):
        from tokenizers import Regex, pre_tokenizers

        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=prefix, use_regex=False)])

    return build


SPLITS = {"gpt-2": by_gpt2, "smollm": by_digit, "llama-bpe": by_pattern(LLAMA3), "qwen2": by_pattern(QWEN2)}


def begun_with(token: str, index: int):
    """A post-processor that puts one token before a text."""
    from tokenizers import processors

    return processors.TemplateProcessing(
        single=[token, "$A"], pair=[token, "$A", f"{token}:1", "$B:1"], special_tokens=[(token, index)]
    )


def finished(tokenizer, added: dict) -> str:
    """tokenizer.json with the tokens added, each of which has to get its id.

    Raises:
      ValueError: a token that would get another id.
    """
    unique = {token.content: (token, index) for token, index in added.items()}
    for text, (token, index) in sorted(unique.items(), key=lambda item: item[1][1]):
        (tokenizer.add_special_tokens if token.special else tokenizer.add_tokens)([token])
        if tokenizer.token_to_id(text) != index:
            raise ValueError(
                f"the added token {text!r} is to be id {index}, tokenizers makes it {tokenizer.token_to_id(text)}: ids "
                "between are missing; save a tokenizer.json with transformers"
            )
    return tokenizer.to_str()
