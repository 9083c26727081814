"""`t5x_like tokenizer`: trained tokenizers can be read and reported; bad flags raise and write nothing."""

import json

import pytest

from t5x_like.cli import main
from t5x_like.data.tokenizers import folder
from tests.data.tokenizers.test_training import TEXTS


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
    made = folder.read_folder(out)
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
        (["--kind=bpe", "--vocab_size=400", "--input=EMPTY"], "has no text"),
        (["--kind=words", "--vocab_size=400", "--input=TEXT"], "kind='words' is not known"),
        (["--kind=bpe", "--vocab_size=400", "--input=TEXT", "--lowercase"], "--lowercase applies to --kind=wordpiece"),
        (["--kind=bpe", "--vocab_size=400", "--input=TEXT", "--field=no"], "has no text field='no'"),
        (["--kind=bpe", "--vocab_size=400", "--input=TEXT", "--split=train"], "--split does not apply to --input"),
    ],
)
def test_bad_input_raises_and_nothing_is_written(flags, message, text, tmp_path, capsys):
    (tmp_path / "empty.txt").write_text("\n\n")
    places = {"TEXT": str(text), "EMPTY": str(tmp_path / "empty.txt")}
    for name, place in places.items():
        flags = [flag.replace(f"={name}", f"={place}") for flag in flags]
    field = [] if any(flag.startswith("--field") for flag in flags) else ["--field=body"]
    assert main.main(["tokenizer", "train", f"--out={tmp_path / 'out'}", *field, *flags]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["empty.txt"]


def test_existing_files_are_not_overwritten(text, tmp_path, capsys):
    (tmp_path / "mine").write_text("")
    flags = ["--kind=bpe", "--vocab_size=400", f"--input={text}", f"--out={tmp_path}"]
    assert main.main(["tokenizer", "train", *flags]) == 2
    assert "already exists" in capsys.readouterr().err
    assert main.main(["tokenizer", "report", str(tmp_path / "none"), f"--input={text}"]) == 2
    assert "none is not a folder" in capsys.readouterr().err


TASKS = """
import functools, seqio
from t5x_like.tasks import preprocessors, vocabularies

def dataset(split, shuffle_files, seed=None):
    import tensorflow as tf
    texts = {texts!r}
    return tf.data.Dataset.from_tensor_slices({{"text": texts, "url": ["u"] * len(texts)}})

seqio.TaskRegistry.add(
    "tokenizer_texts",
    source=seqio.FunctionDataSource(dataset, splits=["train"]),
    preprocessors=[
        functools.partial(preprocessors.rekey, inputs="text", targets="text"),
        seqio.preprocessors.tokenize,
        seqio.CacheDatasetPlaceholder(),
    ],
    output_features={{name: seqio.Feature(vocabularies.BYTES) for name in ("inputs", "targets")}},
)
"""


@pytest.mark.parametrize(("kind", "size"), [("bpe", 400), ("sentencepiece_unigram", 140)])
def test_a_task_gives_texts_and_gets_a_vocabulary(kind, size, text, tmp_path, monkeypatch, capsys):
    """The texts are those of the features; the result is a seqio vocabulary with sentinels and chat tokens."""
    seqio = pytest.importorskip("seqio")
    (tmp_path / "tokenizer_tasks.py").write_text(TASKS.format(texts=TEXTS), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    flags = [f"--kind={kind}", f"--vocab_size={size}", "--extra_ids=3", "--chat"]
    source = ["--task=tokenizer_texts", "--module=tokenizer_tasks"]
    assert main.main(["tokenizer", "train", *flags, *source, f"--out={tmp_path / 'task'}"]) == 0
    twice = tmp_path / "twice.jsonl"
    twice.write_text("".join(json.dumps({"text": one}) + "\n" for one in TEXTS for _ in range(2)), encoding="utf-8")
    assert main.main(["tokenizer", "train", *flags, f"--input={twice}", f"--out={tmp_path / 'files'}"]) == 0
    assert {path.name: path.read_bytes() for path in (tmp_path / "task").iterdir()} == {
        path.name: path.read_bytes() for path in (tmp_path / "files").iterdir()
    }
    capsys.readouterr()
    assert main.main(["tokenizer", "report", str(tmp_path / "task"), "--json", *source]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["bytes"] == 2 * sum(len(one.encode()) for one in TEXTS) and found["coverage"] > 0.95

    from t5x_like.tasks import vocabularies

    made = vocabularies.from_folder(tmp_path / "task")
    assert isinstance(made, seqio.Vocabulary) and made.vocab_size == size
    assert [made.plain.encode(f"<extra_id_{n}>") for n in range(3)] == [[size - 1], [size - 2], [size - 3]]
    for name in ("<|im_start|>", "<|im_end|>"):
        assert len(made.plain.encode(name)) == 1 < len(made.encode(name))  # in a document it is text
    assert made.plain.chat_template and made.eos_id is not None
    assert made.encode_tf(TEXTS[0]).numpy().tolist() == made.encode(TEXTS[0])
    assert main.main(["tokenizer", "train", *flags, *source, "--split=test", f"--out={tmp_path / 'no'}"]) == 2
    assert "task 'tokenizer_texts' has no split 'test'; it has train" in capsys.readouterr().err
    assert main.main(["tokenizer", "train", *flags, "--task=nothing", f"--out={tmp_path / 'no'}"]) == 2
    assert "no seqio task 'nothing'" in capsys.readouterr().err
