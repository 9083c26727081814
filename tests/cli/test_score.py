"""`t5x_like score`: records of any architecture, complete, resumed, and summed up."""

import json
import shutil

import pytest
import tokenizers
from tokenizers import processors

from t5x_like.cli import main
from tests.hf.folders import FIXTURES

WORDS = ["<pad>", "</s>", "<unk>", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
RECORDS = [
    {"context": "a b", "continuation": " c d"},
    {"prompt": "a", "completion": " z z z"},
    {"text": "x y z " * 4},
    {"context": "a", "continuation": " b " * 20},  # longer than the position tables
]


def import_run(name, folder):
    """A run directory of a fixture, with one id per letter."""
    shutil.copytree(FIXTURES / name, folder / "hf")
    words = {word: i for i, word in enumerate(WORDS)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(WORDS[:6])
    single = "[CLS] $A [SEP]" if name == "bert" else "$A </s>" if name == "t5" else "$A"
    special = [(word, words[word]) for word in ("[CLS]", "[SEP]", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    tokenizer.save(str(folder / "hf/tokenizer.json"))
    names = {"eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "[MASK]"}
    (folder / "hf/tokenizer_config.json").write_text(json.dumps(names))
    assert main.main(["hf", "import", str(folder / "hf"), f"--out={folder / 'run'}"]) == 0
    return folder / "run"


@pytest.fixture(scope="module", params=["gpt2", "t5", "bert"])
def run_dir(request, tmp_path_factory):
    return import_run(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return import_run("gpt2", tmp_path_factory.mktemp("gpt2"))


def run(*flags):
    return main.main(["score", *map(str, flags), "--compile_cache=", "--batch_size=2"])


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_texts_of_a_file_are_scored_and_an_interrupted_job_continues(run_dir, tmp_path, capsys):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    flags = f"--run_dir={run_dir}", f"--input={source}", f"--output={out}", "--tokens", "--top=1", "--max_length=16"
    assert run(*flags) == 1  # one is too long
    results, said = read(out), capsys.readouterr().err
    assert [one["id"] for one in results] == [0, 1, 2, 3]
    assert all(one.items() >= record.items() for one, record in zip(results, RECORDS, strict=True))
    assert "score a shorter text" in results[3]["error"] and "score a shorter text" in said
    assert [one["token_count"] for one in results[:3]] == [2, 3, 12]
    assert [[WORDS[i] for i in one["tokens"]] for one in results[:2]] == [["c", "d"], ["z", "z", "z"]]
    nats = -sum(one["log_prob"] for one in results[:3]) / 17
    assert f"3 texts, 17 tokens, {nats:.4f} nats per token" in said
    out.write_text("".join(f"{json.dumps(one)}\n" for one in results[:2]) + '{"id": 2, "te')
    assert run(*flags) == 1
    assert read(out) == results and f"3 texts, 17 tokens, {nats:.4f} nats" in capsys.readouterr().err


def test_texts_of_flags_and_lines(run_dir, tmp_path, capsys):
    source = tmp_path / "in.txt"
    source.write_text("a b c\n\nx\n")
    flags = f"--run_dir={run_dir}", f"--input={source}", "--text=a b", "--context=a", "--continuation= b"
    assert run(*flags, "--continuation= c", "--max_length=16") == 0
    results = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    texts = [one.get("text", (one.get("context"), one.get("continuation"))) for one in results]
    assert texts == ["a b", ("a", " b"), ("a", " c"), "a b c", "", "x"]
    assert [one["token_count"] for one in results] == [2, 1, 1, 3, 0, 1]
    assert "tokens" not in results[0] and "top" not in results[0]


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "there are no texts; give --text"),
        (["--context=a"], "give --context and --continuation together"),
        (["--continuation=a"], "give --context and --continuation together"),
        (["--text=a", "--max_length=4000"], "max_length=4000 must be 1 or more and at most"),
        (["--text=a", "--max_length=9", "--overlap=10"], "overlap=10 must be 1 or more and at most"),
        (["--text=a", "--top=-1"], "--top: -1 is not 0 or more"),
        (["--text=a", "--top=999"], "top=999 must be 0 to"),
        (["--input=IN"], "in.jsonl, line 2: need texts named context and continuation"),
        (["--text=a", "--output=OUT"], "records that are no results of score"),
    ],
)
def test_mistakes_are_refused(gpt2, tmp_path, capsys, flags, message):
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "a"}\n{"words": "a"}\n')
    out.write_text('{"id": 0, "prompt": "a", "completion": "b"}\n')
    flags = [flag.replace("IN", str(source)).replace("OUT", str(out)) for flag in flags]
    assert run(f"--run_dir={gpt2}", *flags) == 2
    assert message in capsys.readouterr().err


def test_results_of_other_texts_are_refused(gpt2, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    out.write_text('{"id": 0, "text": "a b", "log_prob": -1.0}\n')
    assert run(f"--run_dir={gpt2}", "--text=a c", f"--output={out}") == 2
    assert "a result of id=0 for the text 'a b', now the text is 'a c'" in capsys.readouterr().err
