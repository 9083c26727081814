"""The vocabulary of a Hugging Face folder, read from and written to the files that transformers knows."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from t5x_like.data.tokenizers import conversion, vocabularies
from t5x_like.data.tokenizers.huggingface import TEMPLATE, TOKENIZER, TokenizerVocabulary, parsed
from t5x_like.data.tokenizers.sentencepiece import SentencePieceModel
from t5x_like.types import Vocabulary

FILES = {TOKENIZER, "spiece.model", "tokenizer.model", "vocab.txt", "vocab.json"}
PATTERNS = ("*.json", "*.model", "*.txt", "*.jinja")  # all files of a folder that a vocabulary is read from
BYTES_CLASSES = ("ByT5Tokenizer", "byt5")
KINDS = ("pad", "eos", "unk", "bos", "mask")
# What BERT's [SEP] and [CLS] do is what eos and bos do elsewhere.
ALSO = {"eos": "sep", "bos": "cls"}
# Names that the old tokenizer classes take for granted, where no file says so.
USUAL = {
    "pad": ("[PAD]", "<pad>"),
    "eos": ("[SEP]", "</s>"),
    "unk": ("[UNK]", "<unk>"),
    "bos": ("[CLS]", "<s>"),
    "mask": ("[MASK]", "<mask>"),
}
T5_CLASSES = ("T5Tokenizer", "T5TokenizerFast", "MT5Tokenizer", "MT5TokenizerFast", "t5", "mt5", "umt5")
LLAMA_CLASSES = ("LlamaTokenizer", "LlamaTokenizerFast", "GemmaTokenizer", "GemmaTokenizerFast")
LLAMA_CLASSES += ("llama", "mistral", "mixtral", "gemma", "gemma2")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The JSON files of a folder; {} for one that is not there."""

    tokenizer: dict
    special: dict
    generation: dict
    config: dict

    @classmethod
    def read(cls, folder: Path) -> "Settings":
        names = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json")
        return cls(*(read_json(folder / name) if (folder / name).exists() else {} for name in names))

    @property
    def kind(self) -> str | None:
        """The class of the tokenizer, or the type of the model where no class is named."""
        return self.tokenizer.get("tokenizer_class") or self.config.get("model_type")

    @property
    def vocab_size(self) -> int | None:
        """Rows of the model's table."""
        return self.config.get("vocab_size", self.config.get("text_config", {}).get("vocab_size"))

    def text(self, kind: str) -> str | None:
        """The token that stands for `kind`, as its text."""
        for source in (self.tokenizer, self.special):
            named = source.get(f"{kind}_token")
            if named:
                return named["content"] if isinstance(named, dict) else named
        return None

    def numbers(self, kind: str) -> list[int]:
        """Ids that the model's files name for `kind`."""
        for source in (self.generation, self.config, self.config.get("text_config", {})):
            given = source.get(f"{kind}_token_id")
            ids = given if isinstance(given, list) else [given]
            if ids := [i for i in ids if i is not None and i >= 0]:
                return ids
        return []

    def usual(self, kind: str) -> tuple[str, ...]:
        """Names that the tokenizer's class takes for granted."""
        if kind in ("eos", "bos") and self.kind in conversion.BYTE_LEVEL_CLASSES:
            return ("<|endoftext|>",)
        return USUAL[kind]

    def ids(self, find: Callable[[str], int | None]) -> dict:
        """Special ids by field of a vocabulary: those of the tokenizer's files, then the model's, then the usual names."""
        made = {}
        for kind in KINDS:
            unsaid = f"{kind}_token" not in self.tokenizer  # null says that there is none
            texts = [self.text(kind), *(self.usual(kind) if unsaid else ())]
            if kind in ALSO:
                texts.insert(1, self.text(ALSO[kind]))
            found = [index for text in texts[:1] if text and (index := find(text)) is not None] + self.numbers(kind)
            found += [index for text in texts[1:] if text and (index := find(text)) is not None]
            made[kind] = found[0] if found else None
        stops = [made["eos"], *self.numbers("eos")]
        made["stop_ids"] = tuple(dict.fromkeys(i for i in stops if i is not None))
        if (start := self.config.get("decoder_start_token_id")) is not None:
            made |= {"bos": start, "add_bos": True}
        return made

    def template(self, folder: Path) -> str | None:
        """The chat template; the default one where there are several."""
        if (folder / TEMPLATE).exists():
            return (folder / TEMPLATE).read_bytes().decode()
        given = self.tokenizer.get("chat_template")
        if not isinstance(given, list):
            return given
        named = {one["name"]: one["template"] for one in given}
        if "default" not in named:
            raise ValueError(
                f"{folder / 'tokenizer_config.json'} has the chat templates {', '.join(named)}, none named default; "
                f"put the one to use into {TEMPLATE}"
            )
        return named["default"]


def read_json(path: Path) -> dict:
    """A JSON object.

    Raises:
      ValueError: the file is none, by name.
    """
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); fetch the file again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, not an object; fetch the file again")
    return content


def is_there(folder) -> bool:
    """Whether a folder says anything of a tokenizer: one with nothing but weights does not."""
    names = {path.name for path in Path(folder).glob("*")}
    return bool(names & FILES) or Settings.read(Path(folder)).kind in BYTES_CLASSES


def read_folder(folder, vocab_size: int | None = None) -> Vocabulary:
    """The vocabulary of a Hugging Face folder, from the first of tokenizer.json, spiece.model, tokenizer.model, vocab.txt,
    and vocab.json with merges.txt that is there.

    `vocab_size` is the size of the model's table: config.json's where it is not given, and the tokenizer's own where
    there is no config.json.

    Raises:
      ValueError: no tokenizer, a broken file, a tokenizer with more ids than `vocab_size`, or a class of tokenizer that
        these files do not describe.
    """
    folder = Path(folder)
    settings = Settings.read(folder)
    vocab_size = settings.vocab_size if vocab_size is None else vocab_size
    there = {path.name for path in folder.glob("*")}
    if TOKENIZER in there:
        read_json(folder / TOKENIZER)
        return of_tokenizer((folder / TOKENIZER).read_bytes().decode(), settings, vocab_size, folder)
    if settings.kind in BYTES_CLASSES:
        return vocabularies.ByteVocabulary(settings.tokenizer.get("extra_ids", 125))
    for name in ("spiece.model", "tokenizer.model"):
        if name in there:
            return of_sentencepiece(folder / name, settings, vocab_size)
    if "vocab.txt" in there:
        text = conversion.wordpiece(folder / "vocab.txt", settings, added_tokens(folder, settings))
        return of_tokenizer(text, settings, vocab_size, folder)
    if {"vocab.json", "merges.txt"} <= there:
        pairs = conversion.read_merges(folder / "merges.txt")
        table = read_json(folder / "vocab.json")
        text = conversion.byte_level(table, pairs, settings, added_tokens(folder, settings))
        return of_tokenizer(text, settings, vocab_size, folder)
    raise ValueError(
        f"{folder} holds no tokenizer (found: {', '.join(sorted(there)) or 'nothing'}); it needs tokenizer.json, "
        "spiece.model, tokenizer.model, vocab.txt, or vocab.json with merges.txt"
    )


def of_tokenizer(text: str, settings: Settings, vocab_size: int | None, folder: Path) -> TokenizerVocabulary:
    """A tokenizer.json with the special ids of its folder."""
    tokenizer = parsed(text)
    table = tokenizer.get_vocab(with_added_tokens=True)
    ids = settings.ids(table.get)
    first = table.get("<extra_id_0>")
    count = 0
    while first is not None and table.get(f"<extra_id_{count}>") == first - count:
        count += 1
    wants = settings.tokenizer.get("add_bos_token")
    if wants is None:
        alone, whole = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
        wants = whole[:1] == [ids["bos"]] != alone[:1]
    return TokenizerVocabulary(
        text,
        max(table.values()) + 1 if vocab_size is None else vocab_size,
        **{"add_bos": bool(wants) and ids["bos"] is not None} | ids,
        extra_ids=count,
        sentinel=first,
        chat_template=settings.template(folder),
    )


def of_sentencepiece(path: Path, settings: Settings, vocab_size: int | None) -> SentencePieceModel:
    """A SentencePiece file of T5's or LLaMA's kind with the special ids of its folder."""
    kind = settings.kind or ("t5" if path.name == "spiece.model" else "llama")
    if kind not in T5_CLASSES + LLAMA_CLASSES:
        raise ValueError(
            f"{path} belongs to a {kind}, whose ids are not those of its SentencePiece file; save its tokenizer.json with "
            "transformers (AutoTokenizer.from_pretrained(folder).save_pretrained(folder))"
        )
    model = path.read_bytes()
    processor = SentencePieceModel(model, 2**31).processor
    pieces = processor.vocab_size()
    added = {}
    if kind in T5_CLASSES:
        fits = vocab_size is None or pieces + 100 <= vocab_size
        extra = settings.tokenizer.get("extra_ids", 100 if fits else 0)
        added |= {f"<extra_id_{i}>": pieces + extra - 1 - i for i in range(extra)}
    own = {kind: getattr(processor, f"{kind}_id")() for kind in ("pad", "eos", "unk", "bos")}
    own = {kind: index for kind, index in own.items() if index >= 0}
    added |= {processor.id_to_piece(index): index for index in own.values()}
    for token, index in added_tokens(path.parent, settings).items():
        if (token.lstrip or token.rstrip) and not token.content.startswith("<extra_id_"):
            raise ValueError(
                f"{path.parent}: the added token {token.content!r} takes the spaces around it, which is read from a "
                "tokenizer.json alone; save one with transformers"
            )
        added[token.content] = index

    def find(text: str) -> int | None:
        index = processor.piece_to_id(text)
        return added.get(text, None if index == processor.unk_id() else index)

    named = {kind: index for kind, index in settings.ids(find).items() if index is not None}
    ids = {"mask": None} | own | named
    t5 = kind in T5_CLASSES
    if t5 and "decoder_start_token_id" not in settings.config:
        ids |= {"bos": ids.get("pad"), "add_bos": "pad" in ids}  # T5 shifts targets right and fills with padding
    wants = bool(settings.tokenizer.get("add_bos_token", not t5)) and ids.get("bos") is not None
    return SentencePieceModel(
        model,
        max([pieces - 1, *added.values()]) + 1 if vocab_size is None else vocab_size,
        **{"add_bos": wants} | ids,
        add_eos=bool(settings.tokenizer.get("add_eos_token", t5)),
        extra_ids=sum(text.startswith("<extra_id_") for text in added),
        added=tuple(added.items()),
        legacy=settings.tokenizer.get("legacy") is not False,
        chat_template=settings.template(path.parent),
    )


def added_tokens(folder: Path, settings: Settings) -> dict:
    """The library's AddedToken -> id of tokens that a folder without tokenizer.json adds."""
    from tokenizers import AddedToken

    made = {}
    for index, given in settings.tokenizer.get("added_tokens_decoder", {}).items():
        options = {k: given[k] for k in ("single_word", "lstrip", "rstrip", "normalized", "special") if k in given}
        made[given["content"]] = (AddedToken(given["content"], **options), int(index))
    if (folder / "added_tokens.json").exists():
        for text, index in read_json(folder / "added_tokens.json").items():
            made.setdefault(text, (AddedToken(text, normalized=False), index))
    return dict(sorted(made.values(), key=lambda pair: pair[1]))


def export(vocabulary: Vocabulary, folder) -> None:
    """Writes what transformers, and `read_folder`, need of a vocabulary; the model's config.json is not touched.

    Several stop ids go into generation_config.json, beside what is in it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    # BERT has no eos and bos, but what does their work.
    other = ALSO if getattr(vocabulary, "model_type", None) == "WordPiece" else {}
    named = {f"{other.get(kind, kind)}_token": token_text(vocabulary, kind) for kind in KINDS}
    named = {name: text for name, text in named.items() if text}
    if isinstance(vocabulary, vocabularies.ByteVocabulary):
        settings = {"tokenizer_class": "ByT5Tokenizer", "extra_ids": vocabulary.extra_ids}
    elif isinstance(vocabulary, TokenizerVocabulary):
        (folder / TOKENIZER).write_bytes(vocabulary.json.encode())
        settings = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False}
    else:
        settings = sentencepiece_settings(vocabulary)
        t5 = settings["tokenizer_class"] == "T5Tokenizer"
        (folder / ("spiece.model" if t5 else "tokenizer.model")).write_bytes(vocabulary.model)
    template = {} if vocabulary.chat_template is None else {"chat_template": vocabulary.chat_template}
    write_json(folder / "tokenizer_config.json", settings | named | template)
    write_json(folder / "special_tokens_map.json", named)
    if len(vocabulary.stop_ids) > 1:
        path = folder / "generation_config.json"
        write_json(path, (read_json(path) if path.exists() else {}) | {"eos_token_id": list(vocabulary.stop_ids)})


def token_text(vocabulary: Vocabulary, kind: str) -> str | None:
    """The token of a special id; None where there is none, or where padding stands for the beginning."""
    index = getattr(vocabulary, kind)
    if index is None or (kind == "bos" and index == vocabulary.pad):
        return None
    return vocabulary.token(index)


def sentencepiece_settings(vocabulary) -> dict:
    """tokenizer_config.json of a SentencePiece vocabulary, T5's or LLaMA's."""
    if isinstance(vocabulary, vocabularies.SentencePieceVocabulary) or vocabulary.add_eos:
        return {"tokenizer_class": "T5Tokenizer", "extra_ids": vocabulary.extra_ids, "legacy": True}
    tokens = {
        str(index): {"content": text, "special": True, "normalized": False, "lstrip": False, "rstrip": False}
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
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
