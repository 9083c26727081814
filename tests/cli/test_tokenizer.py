"""`t5x_like tokenizer`: text files in, a folder that reads back, a report; bad flags refused with nothing written."""

import json

import pytest

from t5x_like.cli import main
from t5x_like.data import tokenizer_folder
from tests.data.test_tokenizer_training import TEXTS


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.jsonl"
    path.write_text("".join(json.dumps({"body": one}) + "\n" for one in TEXTS * 3), encoding="utf-8")
    return path


@pytest.mark.parametrize(("kind", "size"), [("bpe", 400), ("sentencepiece_unigram", 140)])
def test_trains_and_reports(kind, size, text, tmp_path, capsys):
    out, files = tmp_path / "made", [f"--input={text.parent}/*.jsonl", "--field=body"]
    flags = [f"--kind={kind}", f"--vocab_size={size}", "--extra_ids=3", f"--out={out}"]
    assert main.main(["tokenizer", "train", *flags, *files]) == 0
    assert f"{size} ids" in capsys.readouterr().out
    made = tokenizer_folder.read_folder(out)
    assert made.vocab_size == size and made.encode("<extra_id_2>") == [size - 3]
    assert [path.name for path in tmp_path.iterdir()] == ["made"]
    assert main.main(["tokenizer", "report", str(out), "--json", *files]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["vocab_size"] == size and found["bytes"] == 3 * sum(len(one.encode()) for one in TEXTS)
    assert found["tokens"] == 3 * sum(len(made.encode(one)) for one in TEXTS) and found["coverage"] > 0.95
    assert main.main(["tokenizer", "report", str(out), *files]) == 0
    assert "tokens per byte" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--kind=bpe", "--vocab_size=400", "--input=/nowhere/*.txt"], "input=/nowhere/*.txt matches no file"),
        (["--kind=bpe", "--vocab_size=100", "--input=TEXT"], "vocab_size=100 is too small"),
        (["--kind=bpe", "--vocab_size=400", "--input=EMPTY"], "holds no text"),
        (["--kind=words", "--vocab_size=400", "--input=TEXT"], "kind='words' is not known"),
        (["--kind=bpe", "--vocab_size=400", "--input=TEXT", "--lowercase"], "--lowercase is for --kind=wordpiece"),
        (["--kind=bpe", "--vocab_size=400", "--input=TEXT", "--field=no"], "has no text field='no'"),
    ],
)
def test_bad_input_is_refused_and_nothing_written(flags, message, text, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n\n")
    places = {"TEXT": str(text), "EMPTY": str(tmp_path / "empty.txt")}
    for name, place in places.items():
        flags = [flag.replace(f"={name}", f"={place}") for flag in flags]
    field = [] if any(flag.startswith("--field") for flag in flags) else ["--field=body"]
    assert main.main(["tokenizer", "train", f"--out={tmp_path / 'out'}", *field, *flags]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


def test_what_is_there_is_not_overwritten(text, tmp_path, capsys):
    (tmp_path / "mine").write_text("")
    flags = ["--kind=bpe", "--vocab_size=400", f"--input={text}", f"--out={tmp_path}"]
    assert main.main(["tokenizer", "train", *flags]) == 2
    assert "is there already" in capsys.readouterr().err
    assert main.main(["tokenizer", "report", str(tmp_path / "none"), f"--input={text}"]) == 2
    assert "none is no folder" in capsys.readouterr().err
