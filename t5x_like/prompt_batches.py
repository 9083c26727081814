"""Prompts: read from files, rendered, tokenized, and padded to the arrays of a batch."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from t5x_like.data.chats import chat
from t5x_like.data.tokenizers import vocabularies
from t5x_like.files import lines
from t5x_like.types import PathLike, Vocabulary

BUCKET = 64  # lengths are rounded up to a multiple of this, so that few shapes are compiled


def render_prompt(record: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Adds the rendered chat as "prompt" to a record with "messages"; returns other records unchanged."""
    rendered = {"prompt": chat.render_chat(vocabulary, record["messages"])} if "messages" in record else {}
    return {**record, **rendered}


def prompt_ids(record: Mapping[str, Any], vocabulary: Vocabulary, seq2seq: bool, literal: bool = False) -> list[int]:
    """Token ids of a prompt, with bos or eos as the model expects. A chat template writes its own bos.

    With `literal` the names of control tokens in a prompt are text, as they always are in the messages of a chat.

    Raises:
      ValueError: a prompt that is not UTF-8 text, or an empty prompt if the vocabulary has no bos.
    """
    text, is_chat = record["prompt"], "messages" in record
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the prompt has half of a surrogate pair, U+{ord(text[error.start]):04X}, at character {error.start}, so it is not "
            "Unicode text; remove it"
        ) from error
    if seq2seq and not is_chat:
        return vocabularies.encode_special(vocabulary, text) if literal else vocabulary.encode_special(text)
    ids = chat.prompt_ids(vocabulary, record["messages"]) if is_chat else vocabulary.encode(text, literal)
    if seq2seq:
        return [*ids, vocabularies.end_id(vocabulary)]
    # The decoder needs at least one token: an empty prompt gets bos even if the vocabulary does not add it to prompts.
    if vocabulary.bos is not None and (not ids or (vocabulary.add_bos and not is_chat)):
        ids = [vocabulary.bos, *ids]
    if not ids:
        raise ValueError(
            f"prompt={text!r} of id={record.get('id')!r} is empty, and the vocabulary has no bos token to start from "
            "(bos=None); give a prompt of at least one token"
        )
    return ids


def make_prompt_batch(
    vocabulary: Vocabulary, seq2seq: bool, prefix: bool, ids: Sequence[Sequence[int]]
) -> dict[str, np.ndarray]:
    """The arrays of prompts from `prompt_ids`."""
    return encoder_batch(ids, vocabulary) if seq2seq else decoder_batch(ids, prefix)


def decoder_batch(ids: Sequence[Sequence[int]], prefix: bool = False) -> dict[str, np.ndarray]:
    """The decoder's arrays [B, P] for prompts from `prompt_ids`, left-aligned; P is a multiple of BUCKET."""
    batch = pad_rows(ids, round_up(max(len(row) for row in ids), BUCKET), "decoder")
    if prefix:
        batch["decoder_prefix"] = batch["decoder_segment_ids"].copy()
    return batch


def encoder_batch(ids: Sequence[Sequence[int]], vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """The encoder's arrays for inputs from `prompt_ids`, and the decoder's with the start token [B, 1]."""
    start = vocabularies.start_id(vocabulary)
    length = round_up(max(len(row) for row in ids), BUCKET)
    return pad_rows(ids, length, "encoder") | pad_rows([[start]] * len(ids), 1, "decoder")


def pad_rows(rows: Sequence[Sequence[int]], length: int, side: str) -> dict[str, np.ndarray]:
    """Input tokens, positions and segment ids of ragged rows, int32 [B, length], named for `side`."""
    tokens, segments = np.zeros((2, len(rows), length), np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        segments[i, : len(row)] = 1
    positions = np.arange(length, dtype=np.int32) * segments
    return {f"{side}_input_tokens": tokens, f"{side}_positions": positions, f"{side}_segment_ids": segments}


def add_prefix(batch: dict[str, np.ndarray], sizes: Sequence[int]) -> dict[str, np.ndarray]:
    """Adds `decoder_prefix`: of each row the first tokens, `sizes` of them, are read bidirectionally."""
    in_prefix_BL = batch["decoder_positions"] < np.array(sizes)[:, None]
    return batch | {"decoder_prefix": ((batch["decoder_segment_ids"] > 0) & in_prefix_BL).astype(np.int32)}


def one_token(sides: Sequence[str]) -> dict[str, np.ndarray]:
    """A batch of one token on each of a model's `sides`, for its shapes."""
    batches = [pad_rows([[0]], 1, side) for side in sides]
    return {name: x for batch in batches for name, x in batch.items()}


def round_up(value: int, unit: int) -> int:
    """The smallest multiple of `unit` that is at least `value`."""
    return -(-value // unit) * unit


def read_prompts(path: PathLike) -> Iterator[dict[str, Any]]:
    """Yields the records of a .jsonl file, or one prompt per line of any other file, one line in memory at a time.

    A record is {"prompt" or "inputs": text, "id": anything}, or a chat with "messages" instead of the prompt.

    Raises:
      ValueError: a line that is not such a record, or not UTF-8, with its number.
    """
    is_jsonl = Path(path).suffix == ".jsonl"
    for number, line in enumerate(lines.read_lines(path), 1):
        if not is_jsonl:
            yield {"id": number - 1, "prompt": line}
            continue
        try:
            record = json.loads(line)
            prompt = {"id": record.get("id", number - 1)}
            if "messages" in record:
                chat.check_messages(record["messages"])
                yield prompt | {"messages": record["messages"]}
            else:
                text = record["prompt"] if "prompt" in record else record["inputs"]
                if not isinstance(text, str):
                    raise TypeError(f"{text!r} is not text")
                yield prompt | {"prompt": text}
        except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
            raise ValueError(
                f'{path}, line {number}: need a JSON object with "prompt" (or "inputs", or "messages"), got {line[:60]!r}'
            ) from error


def to_chat(record: dict[str, Any], system: str | None = None) -> dict[str, Any]:
    """Turns a prompt into a user message, after an optional system message; returns a chat unchanged."""
    if "messages" in record:
        return record
    before = [] if system is None else [{"role": "system", "content": system}]
    return {"id": record["id"], "messages": [*before, {"role": "user", "content": record["prompt"]}]}
