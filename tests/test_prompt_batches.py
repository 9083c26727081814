"""Prompts: files are read record by record, errors name bad lines, and the vocabulary defines how a prompt begins."""

import dataclasses
import json

import pytest

from t5x_like import prompt_batches
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from tests.data.tokenizers import tiny_tokenizers


@pytest.fixture(scope="module")
def pretrained():
    return tiny_tokenizers.chat_vocabulary()


def test_prompt_files_are_read_and_errors_name_bad_lines(tmp_path):
    text, lines, bad = (tmp_path / name for name in ("a.txt", "b.jsonl", "c.jsonl"))
    text.write_text("one\ntwo\n")
    lines.write_text('{"prompt": "one", "id": 7}\n{"inputs": "two"}\n')
    bad.write_text('{"prompt": "one"}\n{"text": "two"}\n')
    assert list(prompt_batches.read_prompts(text)) == [{"id": 0, "prompt": "one"}, {"id": 1, "prompt": "two"}]
    assert list(prompt_batches.read_prompts(lines)) == [{"id": 7, "prompt": "one"}, {"id": 1, "prompt": "two"}]
    with pytest.raises(ValueError, match=r'c.jsonl, line 2: need a JSON object with "prompt"'):
        list(prompt_batches.read_prompts(bad))


@pytest.mark.parametrize("value", ["null", "5", "true", "[1]", '{"a": 1}'])
@pytest.mark.parametrize("field", ["prompt", "inputs"])
def test_a_prompt_is_text(tmp_path, field, value):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"{field}": {value}}}\n')
    with pytest.raises(ValueError, match="line 1: need a JSON object with"):
        list(prompt_batches.read_prompts(path))


def test_a_prompt_may_contain_every_character_but_the_line_feed(tmp_path):
    texts = ["\ufefffirst", "by\u2028the author", "page one\x0cpage two", "next\u0085line", "a\rb", "last"]
    records = [json.dumps({"prompt": text}, ensure_ascii=False) for text in texts]
    for end in ("\n", "\r\n"):
        for name, written in (("a.txt", texts), ("a.jsonl", records)):
            (tmp_path / name).write_bytes(("\ufeff" + end.join(written) + end).encode())
            assert [record["prompt"] for record in prompt_batches.read_prompts(tmp_path / name)] == texts


def test_the_vocabulary_defines_how_prompts_begin(pretrained):
    plain, with_bos = {"prompt": "def"}, dataclasses.replace(pretrained, bos=1, add_bos=True)
    ids = pretrained.encode("def")
    assert prompt_batches.prompt_ids(plain, ByteVocabulary(), False) == [0, *ByteVocabulary().encode("def")]
    assert prompt_batches.prompt_ids(plain, ByteVocabulary(), True) == [*ByteVocabulary().encode("def"), 1]
    assert prompt_batches.prompt_ids(plain, pretrained, False) == ids
    assert prompt_batches.prompt_ids(plain, with_bos, False) == [1, *ids]
    assert prompt_batches.prompt_ids({"prompt": ""}, dataclasses.replace(with_bos, add_bos=False), False) == [1]
    chat = prompt_batches.render_prompt({"messages": [{"role": "user", "content": "def"}]}, with_bos)
    assert prompt_batches.prompt_ids(chat, with_bos, False) == with_bos.encode("<|im_start|>user def<|im_end|>")
    with pytest.raises(ValueError, match="prompt='' of id=7 is empty, and the vocabulary has no bos token"):
        prompt_batches.prompt_ids({"prompt": "", "id": 7}, pretrained, False)


def test_chats_are_read_from_files(tmp_path):
    path = tmp_path / "chats.jsonl"
    messages = [{"role": "user", "content": "hi"}]
    path.write_text(json.dumps({"messages": messages}) + "\n")
    assert list(prompt_batches.read_prompts(path)) == [{"id": 0, "messages": messages}]
    assert prompt_batches.to_chat({"id": 0, "messages": messages}, "system") == {"id": 0, "messages": messages}
    path.write_text(json.dumps({"messages": "hi"}) + "\n")
    with pytest.raises(ValueError, match=r'line 1: need a JSON object with "prompt" \(or "inputs", or "messages"\)'):
        list(prompt_batches.read_prompts(path))
