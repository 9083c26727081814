"""A task over the user's own chats, or prompts and completions, configured in gin: see gin_configs/tasks/chats.gin."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t5x_like import gin_configs
from t5x_like.cleaning import reading
from t5x_like.data.chats import masks
from t5x_like.prompting.conversations import Layout
from t5x_like.tasks import text_tasks
from t5x_like.tasks.custom.files import Patterns, check_disjoint
from t5x_like.tasks.instructions import chats, instruction
from t5x_like.tasks.vocabularies import SeqioVocabulary
from t5x_like.types import Vocabulary

TEMPLATES = Path(gin_configs.__file__).parent / "chat_templates"


def define(
    name: str,
    train: Patterns,
    validation: Patterns | None = None,
    messages: str | None = None,
    prompt: str | None = None,
    completion: str | None = None,
    system: str | None = None,
    tools: str | None = "tools",
    template: str | None = None,
    vocabulary: str = "bytes",
    validation_one_in: int = 20,
    columns: Sequence[str] = (),
    max_bytes: int = reading.MAX_BYTES,
    strict: bool = False,
) -> None:
    """Registers a task over files of chats.

    Args:
      name: the task's name.
      train: paths or globs of the training files.
      validation: the same for validation; None holds out 1 in `validation_one_in` chats of `train`, by hash of what comes before
        the first answer.
      messages: the field of the messages, "messages" by default; or give `prompt` and `completion`.
      prompt: see `conversations.Layout`; so are `completion`, `system` and `tools`.
      template: a .jinja file, or one of gin_configs/chat_templates; None takes the vocabulary's own.
      vocabulary: bytes, sp, a tokenizer folder or a SentencePiece .model file.
      validation_one_in: see `validation`.
      columns: see `FileSource`; so are `max_bytes` and `strict`.

    Raises:
      ValueError: a pattern matches no file, a file is in both splits, the template does not fit, or a split has no chat.
    """
    if messages is None and prompt is None and completion is None:
        messages = "messages"
    layout = Layout(messages, prompt, completion, system, tools)
    templated = with_template(text_tasks.find_vocabulary(vocabulary), template)
    masks.check_ends(templated.plain)
    split_filter = None if validation else text_tasks.make_split_filter({chats.KEY: chats.KEY}, validation_one_in)
    source = chats.ChatSource(
        {"train": train, "validation": validation or train},
        layout,
        instruction.ChatVocabulary(templated),
        columns,
        max_bytes,
        strict,
        split_filter,
    )
    if validation:
        check_disjoint(source.patterns, train, validation)
    for split in source.splits:
        check_split(source, split, validation_one_in if split_filter else None)
    chats.add(name, source, templated)


def check_split(source: chats.ChatSource, split: str, one_in: int | None) -> None:
    """Checks that a split has a chat.

    Raises:
      ValueError: it has none; the message says what is wrong with the last record.
    """
    if any(True for shard in source.list_shards(split) for _ in source.examples(split, shard)):
        return
    if not source.reason and one_in is not None:
        raise ValueError(
            f"validation_one_in={one_in}: no chat falls into {split}; give a smaller number, or validation data"
        )
    raise ValueError(f"split {split!r}: no record gives a chat; the last: {source.reason}")


def with_template(vocabulary: SeqioVocabulary, template: str | None) -> SeqioVocabulary:
    """A vocabulary with the chat template of a file.

    Raises:
      ValueError: there is no such file, or a vocabulary of this kind has no chat templates.
    """
    if template is None:
        return vocabulary
    path = Path(template).expanduser()
    if not path.is_file():
        path = TEMPLATES / f"{template}.jinja"
    if not path.is_file():
        known = ", ".join(sorted(path.stem for path in TEMPLATES.glob("*.jinja")))
        raise ValueError(f"template={template!r} is no file, and none of the packaged ones: {known}")
    if "chat_template" not in getattr(type(vocabulary.plain), "__dataclass_fields__", ()):
        raise ValueError(
            f"template={template!r}: the vocabulary {vocabulary.plain.fingerprint} takes no chat template; name a tokenizer "
            "folder (`t5x_like tokenizer train` makes one), or no template: chats are then plain lines"
        )
    load = functools.partial(replace_template, vocabulary, path)
    return SeqioVocabulary(load, [*vocabulary.files, str(path)])


def replace_template(vocabulary: SeqioVocabulary, path: Path) -> Vocabulary:
    """The plain vocabulary with the chat template in `path`."""
    plain: Any = vocabulary.plain
    return dataclasses.replace(plain, chat_template=path.read_bytes().decode())
