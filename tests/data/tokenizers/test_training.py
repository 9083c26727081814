"""Trained tokenizers: the libraries' ids, saved folders, the same result in another process, and errors."""

import gzip
import inspect
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import sentencepiece
import tokenizers

from t5x_like.cleaning import reading
from t5x_like.data.chats import chat
from t5x_like.data.tokenizers import folder as tokenizer_folder
from t5x_like.data.tokenizers import training
from tests.data.tokenizers import tiny_tokenizers
from tests.data.tokenizers.tiny_tokenizers import VARIED

TEXTS = [*tiny_tokenizers.TEXTS, *inspect.getsource(textwrap).splitlines(keepends=True)]
SIZES = {"bpe": 420, "wordpiece": 300, "unigram": 160, "sentencepiece_bpe": 420, "sentencepiece_unigram": 160}
MESSAGES = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module", params=SIZES)
def trained(request, tmp_path_factory):
    """(kind, vocabulary, folder) with 4 sentinels and the chat tokens."""
    kind = request.param
    vocabulary = training.train(kind, TEXTS * 3, SIZES[kind], extra_ids=4, chat=True)
    folder = tmp_path_factory.mktemp("trained") / kind
    training.save(vocabulary, folder)
    return kind, vocabulary, folder


def library(folder: Path):
    """`text -> ids` of the library on the saved file."""
    if (folder / "tokenizer.json").exists():
        vocabulary = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
        return lambda text: vocabulary.encode(text, add_special_tokens=False).ids
    path = next(path for name in ("spiece.model", "tokenizer.model") if (path := folder / name).exists())
    return sentencepiece.SentencePieceProcessor(model_file=str(path)).encode


def test_ids_are_the_librarys_before_and_after_saving(trained):
    _, vocabulary, folder = trained
    again, encode = tokenizer_folder.read_folder(folder), library(folder)
    for text in [*TEXTS, "naïve — “quotes” 日本語\n\tx  y"]:
        assert vocabulary.encode(text) == again.encode(text) == encode(text)
        assert vocabulary.encode_special(text) == again.encode_special(text)
    fields = ("vocab_size", "pad", "eos", "unk", "bos", "mask", "extra_ids", "first_sentinel", "chat_template")
    for field in (*fields, "add_bos", "stop_ids"):
        assert getattr(again, field) == getattr(vocabulary, field), field


def test_sentinels_and_chat_tokens_are_one_id(trained):
    kind, vocabulary, folder = trained
    again = tokenizer_folder.read_folder(folder)
    assert vocabulary.vocab_size <= SIZES[kind]
    for i in range(4):
        assert again.encode(f"<extra_id_{i}>") == [again.first_sentinel - i]
    begin, end = (again.encode(token) for token in training.CHAT)
    assert len(begin) == len(end) == 1 and end[0] in again.stop_ids
    ids = again.encode(chat.render_chat(again, MESSAGES))
    assert ids.count(begin[0]) == 2 and ids.count(end[0]) == 1


@pytest.mark.parametrize("split", ["gpt-2", "llama-bpe", "qwen2", "smollm"])
def test_byte_level_bpe_is_lossless(split):
    vocabulary = training.train("bpe", TEXTS, 400, options=training.Options(split=split))
    for text in [*TEXTS, *VARIED]:
        assert vocabulary.decode(vocabulary.encode(text)) == text
    assert vocabulary.vocab_size == 400


def test_sentencepiece_bpe_is_lossless():
    vocabulary = training.train("sentencepiece_bpe", TEXTS * 3, 400)
    for text in (*TEXTS, "½ ² ٣٤  x\n\n\ty  "):
        assert vocabulary.decode(vocabulary.encode(text)) == text


def test_unigram_splits_as_sentencepiece():
    """The same pieces on text that NFKC and white space change."""
    ours, theirs = (training.train(kind, TEXTS, 160) for kind in ("unigram", "sentencepiece_unigram"))
    for text in (*TEXTS, "  two  spaces\n\tand ﬁ ½"):
        assert ours.encode(text) == theirs.encode(text)


def test_lower_case_is_optional():
    cased = training.train("wordpiece", TEXTS * 2, 300)
    lower = training.train("wordpiece", TEXTS * 2, 300, options=training.Options(lowercase=True))
    assert lower.encode("Quick") == lower.encode("quick") and cased.encode("Quick") != cased.encode("quick")


TRAIN = """
import hashlib
from t5x_like.data.tokenizers import training
from tests.data.tokenizers.test_training import TEXTS
for kind, size in {sizes}.items():
    print(kind, training.train(kind, TEXTS * 3, size, extra_ids=4, chat=True).fingerprint)
"""


def test_another_process_trains_the_same_tokenizer():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", TRAIN.format(sizes=SIZES)], capture_output=True, text=True, check=True, cwd=root()
        ).stdout
        for _ in range(2)
    }
    assert len(outputs) == 1 and len(outputs.pop().splitlines()) == len(SIZES)


def root() -> Path:
    return Path(__file__).resolve().parents[3]


def test_files_are_read(tmp_path):
    (tmp_path / "a.txt").write_text("one\r\ntwo", encoding="utf-8", newline="")
    with gzip.open(tmp_path / "b.jsonl.gz", "wt", encoding="utf-8") as file:
        file.write(json.dumps({"body": "três\nquatro"}) + "\n\n" + json.dumps({"body": ""}) + "\n")
    paths = reading.find_files([str(tmp_path / "*"), str(tmp_path / "a.txt")])
    assert [path.name for path in paths] == ["a.txt", "b.jsonl.gz"]
    assert list(training.read_texts(paths, "body")) == ["one\r\ntwo", "três\nquatro", ""]


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.jsonl.gz"])
def test_only_line_feeds_end_lines_and_a_mark_is_no_text(name, tmp_path):
    text = "one\u2028a\x0cb\x85c"
    content = f"\ufeff{text if name == 'a.txt' else json.dumps({'text': text}, ensure_ascii=False)}".encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    assert list(training.read_texts([tmp_path / name])) == [text]


def test_a_text_file_is_read_in_whole_lines(tmp_path):
    text = "".join(f"line {i}\n" for i in range(30_000))
    (tmp_path / "a.txt").write_text(text)
    parts = list(training.read_texts([tmp_path / "a.txt"]))
    assert "".join(parts) == text and len(parts) > 3 and all(part.endswith("\n") for part in parts)


def test_long_lines_are_used():
    line = " ".join(f"w{i % 7}ö" for i in range(20_000))
    vocabulary = training.train("sentencepiece_unigram", [line], 14)
    assert vocabulary.unk not in vocabulary.encode(line)


def test_measure():
    vocabulary = training.train("bpe", TEXTS, 300)
    metrics = training.measure(vocabulary, ["déjà vu\n", ""])
    ids = vocabulary.encode("déjà vu\n")
    assert (
        metrics["tokens"] == len(ids) and metrics["bytes"] == 10 and metrics["words"] == 2 and metrics["coverage"] == 1
    )
    assert metrics["tokens_per_byte"] == len(ids) / 10 and metrics["tokens_per_word"] == len(ids) / 2
    word = training.train("wordpiece", TEXTS * 2, 300)
    assert training.measure(word, ["the ☃"])["unknown"] == 1


@pytest.mark.parametrize(
    ("kind", "texts", "size", "message"),
    [
        ("bpe", TEXTS, 200, r"vocab_size=200 is too small: 256 bytes.*take 258; give 259"),
        ("wordpiece", TEXTS, 5, "vocab_size=5 is too small"),
        ("wordpiece", TEXTS, 20, "vocab_size=20 is too small: the text's characters, special"),
        ("sentencepiece_bpe", TEXTS, 100, "vocab_size=100 is too small"),
        ("unigram", TEXTS, 20, "vocab_size: SentencePiece cannot train 20 pieces"),
        ("sentencepiece_unigram", TEXTS, 90_000, "vocab_size: SentencePiece cannot train 90000 pieces"),
        ("bpe", ["", " \n"], 300, "the input has no text"),
        ("bqe", TEXTS, 300, "kind='bqe' is not known; give one of bpe"),
    ],
)
def test_bad_arguments_are_named(kind, texts, size, message):
    with pytest.raises(ValueError, match=message):
        training.train(kind, texts, size)


def test_bad_files_are_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"body": "y"}\n')
    (tmp_path / "b.jsonl").write_text("{\n")
    (tmp_path / "c.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "d.gz").write_bytes(gzip.compress(b"x" * 100)[:-12])
    (tmp_path / "e.gz").write_text("plain")
    messages = [
        "line 2 has no text field='text' .found: body.",
        "line 1 is not JSON",
        "not UTF-8",
        "not a complete",
        "not a complete",
    ]
    for path, message in zip(sorted(tmp_path.iterdir()), messages, strict=True):
        with pytest.raises(ValueError, match=f"{path.name}.*{message}"):
            list(training.read_texts([path]))
    with pytest.raises(ValueError, match="matches no file"):
        reading.find_files([str(tmp_path / "*.nothing")])
    with pytest.raises(ValueError, match="split='words' is not known"):
        training.Options(split="words")
