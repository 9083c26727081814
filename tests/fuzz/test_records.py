"""Changed files of texts and records: readers give every intact record, and count or refuse the rest."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5x_like import prompt_batches
from t5x_like.cleaning import reading
from t5x_like.cleaning.steps import Dropped
from t5x_like.scaling.laws import table
from tests.fuzz import mutations

RECORDS = [{"text": "one\u2028line", "id": 1}, {"text": "two\r", "n": [1, {"a": None}]}, {"text": "", "prompt": "p"}]
JSON_LINES = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in RECORDS).encode()
PROMPTS = "".join(
    json.dumps(record) + "\n"
    for record in (
        {"prompt": "a", "id": 3},
        {"inputs": "b"},
        {"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]},
    )
).encode()
RUNS = b"n_params,tokens,loss\n1e6,2e7,3.5\n2e6,4e7,3.2\n4e6,8e7,2.9\n"
FILES = {
    "a.jsonl": JSON_LINES,
    "a.txt": b"one\ntwo\r\n\nthree",
    "a.csv": b'text,id\n"one, and ""two""",1\nthree,2\n',
    "a.tsv": b"text\tid\none\t1\n",
    "a.json": b'[{"text": "one"}, {"text": "two"}]',
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("records")


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", [name for name in FILES if Path(name).suffix in reading.FORMATS])
@given(data=st.data())
def test_documents_are_read_or_dropped(folder, name, data):
    path = write(folder / name, data.draw(mutations.bytes_like(FILES[name])))
    documents = mutations.outcome(lambda: list(reading.read(path)))
    if not isinstance(documents, Exception):
        # Texts that are no strings are dropped later, by steps.ReadableFilter.
        assert all(isinstance(document, Dropped) or "text" in document for document in documents)
        json.dumps([document for document in documents if not isinstance(document, Dropped)]).encode()


@given(content=mutations.bytes_like(JSON_LINES))
def test_intact_lines_are_never_lost(folder, content):
    whole = {line for line in JSON_LINES.split(b"\n") if line} & set(content.removeprefix(b"\xef\xbb\xbf").split(b"\n"))
    path = write(folder / "b.jsonl", content)
    texts = [document["text"] for document in reading.read(path) if not isinstance(document, Dropped)]
    assert all(json.loads(line)["text"] in texts for line in whole)


@given(content=mutations.bytes_like(PROMPTS))
def test_prompts_are_read_or_refused(folder, content):
    path = write(folder / "p.jsonl", content)
    prompts = mutations.outcome(lambda: list(prompt_batches.read_prompts(path)))
    if not isinstance(prompts, Exception):
        assert all(isinstance(prompt.get("prompt", ""), str) for prompt in prompts)


@given(content=mutations.bytes_like(RUNS))
def test_a_table_of_runs_is_read_or_refused(folder, content):
    path = write(folder / "runs.csv", content)
    mutations.outcome(table.read, path)
