"""The JSON files of a Hugging Face folder: what they say about special tokens, the chat template and the model's size."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from t5x_like.data.tokenizers.huggingface import TEMPLATE

SPECIAL = ("pad", "eos", "unk", "bos", "mask")
# BERT's [SEP] and [CLS] serve as eos and bos.
BERT_KINDS = {"eos": "sep", "bos": "cls"}
# Names that older tokenizer classes assume if no file gives any.
DEFAULT_NAMES = {
    "pad": ("[PAD]", "<pad>"),
    "eos": ("[SEP]", "</s>"),
    "unk": ("[UNK]", "<unk>"),
    "bos": ("[CLS]", "<s>"),
    "mask": ("[MASK]", "<mask>"),
}
BYTE_LEVEL_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast", "gpt2", "gptj", "gpt_neo", "opt")


@dataclasses.dataclass(frozen=True)
class Settings:
    """The contents of the JSON files; {} for a missing file."""

    tokenizer: dict
    special: dict
    generation: dict
    config: dict

    @classmethod
    def read(cls, folder: Path) -> "Settings":
        """Reads the files of a folder.

        Raises:
          ValueError: a file is not a JSON object.
        """
        names = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json", "config.json")
        return cls(*(read_json(folder / name) if (folder / name).exists() else {} for name in names))

    @property
    def kind(self) -> str | None:
        """The class of the tokenizer, or the type of the model if no class is given."""
        return self.tokenizer.get("tokenizer_class") or self.config.get("model_type")

    @property
    def vocab_size(self) -> int | None:
        """The number of rows of the model's embedding table."""
        return self.config.get("vocab_size", self.config.get("text_config", {}).get("vocab_size"))

    def token(self, kind: str) -> str | None:
        """The text of a special token, or None if the tokenizer's files give none."""
        for source in (self.tokenizer, self.special):
            value = source.get(f"{kind}_token")
            if value:
                text = value.get("content") if isinstance(value, dict) else value
                if not isinstance(text, str):
                    raise ValueError(f"{kind}_token={json.dumps(value)[:80]} in the tokenizer's files is not a text")
                return text
        return None

    def special_texts(self) -> set[str]:
        """The texts of all special tokens that the tokenizer's files name."""
        texts = {self.token(kind) for kind in (*SPECIAL, *BERT_KINDS.values())}
        for source in (self.tokenizer, self.special):
            for value in source.get("additional_special_tokens") or ():
                texts.add(value["content"] if isinstance(value, dict) else value)
        return {text for text in texts if text}

    def model_ids(self, kind: str) -> list[int]:
        """The ids of a special token according to the model's files."""
        for source in (self.generation, self.config, self.config.get("text_config", {})):
            value = source.get(f"{kind}_token_id")
            ids = value if isinstance(value, list) else [value]
            if not all(i is None or type(i) is int for i in ids):
                raise ValueError(f"{kind}_token_id={json.dumps(value)[:80]} in the model's files is not an id")
            if ids := [i for i in ids if i is not None and i >= 0]:
                return ids
        return []

    def default_names(self, kind: str) -> tuple[str, ...]:
        """The names of a special token that the tokenizer's class assumes."""
        if kind in ("eos", "bos") and self.kind in BYTE_LEVEL_CLASSES:
            return ("<|endoftext|>",)
        return DEFAULT_NAMES[kind]

    def special_ids(self, find: Callable[[str], int | None]) -> dict[str, Any]:
        """Special ids by field of a vocabulary, from the tokenizer's files, else the model's, else the default names.

        `find(text)` gives the id of a token, or None.
        """
        fields: dict[str, Any] = {}
        for kind in SPECIAL:
            unspecified = f"{kind}_token" not in self.tokenizer  # null means that there is none
            texts = [self.token(kind), *(self.default_names(kind) if unspecified else ())]
            if kind in BERT_KINDS:
                texts.insert(1, self.token(BERT_KINDS[kind]))
            ids = [index for text in texts[:1] if text and (index := find(text)) is not None] + self.model_ids(kind)
            ids += [index for text in texts[1:] if text and (index := find(text)) is not None]
            fields[kind] = ids[0] if ids else None
        stops = [fields["eos"], *self.model_ids("eos")]
        fields["stop_ids"] = tuple(dict.fromkeys(i for i in stops if i is not None))
        if (start := self.config.get("decoder_start_token_id")) is not None:
            fields |= {"bos": start, "add_bos": True}
        return fields

    def chat_template(self, folder: Path) -> str | None:
        """The chat template; the one named default if there are several.

        Raises:
          ValueError: there are several, and none is named default; or it is not text.
        """
        if (folder / TEMPLATE).exists():
            return (folder / TEMPLATE).read_bytes().decode()
        where, value = folder / "tokenizer_config.json", self.tokenizer.get("chat_template")
        if isinstance(value, list):
            templates = {entry["name"]: entry["template"] for entry in value}
            if "default" not in templates:
                raise ValueError(
                    f"{where} has the chat templates {', '.join(templates)}, none named default; put the one to use into "
                    f"{TEMPLATE}"
                )
            value = templates["default"]
        if not isinstance(value, str | None):
            raise ValueError(f"{where}: chat_template={value!r} is not text; download the file again")
        return value


def read_json(path: Path) -> dict:
    """Reads a JSON object.

    Raises:
      ValueError: the file is not one; the message names it.
    """
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); download the file again") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a JSON {type(content).__name__}, not an object; download the file again")
    return content
