"""`t5x_like self_instruct`: writes tasks, goes on after an interrupt, and names what is wrong before a model is opened."""

import contextlib
import json

import pytest

from t5x_like.cli import main, opening
from t5x_like.cli.data import self_instruct
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.serving.requests import Settings
from tests.prompting.test_self_instruct import SEEDS, scripted

pytest.importorskip("rouge_score")


class ScriptedEngine(contextlib.nullcontext):
    """What an engine is asked for, answered by the scripted model."""

    model = type("Model", (), {"encoder_decoder": False})
    vocabulary = ByteVocabulary()

    def generate(self, prompts, settings):
        assert isinstance(settings, Settings)
        generate, _ = scripted()
        options = {"seed": settings.seed, "temperature": settings.temperature}
        texts = generate([self.vocabulary.decode(ids) for ids in prompts], **options)
        return [[type("Completion", (), {"text": text})] for text in texts]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A function that runs the command, in a folder with seeds."""
    engine = ScriptedEngine()
    engine.enter_result = engine
    monkeypatch.setattr(opening.Engine, "from_run", lambda *args: engine)
    records = [
        {"instruction": t.instruction, "input": t.input, "output": t.output, "is_choice": t.is_choice} for t in SEEDS
    ]
    (tmp_path / "seeds.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    flags = ["self_instruct", "--run_dir=run", f"--seeds={tmp_path}/seeds.jsonl", "--prompts=2", "--compile_cache="]
    return lambda *more: main.main([*flags, *more])


def test_tasks_are_written_and_a_run_goes_on(run, tmp_path, capsys):
    assert run(f"--output={tmp_path}/a.jsonl", "--count=6") == 0
    assert "a.jsonl: 6 tasks, 6 of them new; rejected: " in capsys.readouterr().err
    text = (tmp_path / "a.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    assert len(records) == 6 and all(record["similarity"] <= 0.7 and record["output"] == "done." for record in records)
    first = [line for line in text.splitlines(keepends=True) if json.loads(line)["round"] == 0]
    (tmp_path / "b.jsonl").write_text("".join(first) + text[:20])
    assert run(f"--output={tmp_path}/b.jsonl", "--count=6") == 0
    assert (tmp_path / "b.jsonl").read_text() == text
    assert run(f"--output={tmp_path}/b.jsonl", "--count=6") == 0
    assert "b.jsonl has 6 tasks already; raise --count=6" in capsys.readouterr().err


def test_mistakes_are_named(run, tmp_path, capsys):
    (tmp_path / "other.jsonl").write_text('{"text": "x"}\n')
    assert run(f"--output={tmp_path}/other.jsonl") == 2
    assert "has the record {'text': 'x'}, which this command did not write" in capsys.readouterr().err
    for line, message in (("{", "line 4 is not JSON"), ("[]", "line 4 is a JSON list"), ("{}", "line 4: need")):
        text = (tmp_path / "seeds.jsonl").read_text()
        (tmp_path / "bad.jsonl").write_text(text + line + "\n")
        assert run(f"--output={tmp_path}/c.jsonl", f"--seeds={tmp_path}/bad.jsonl") == 2
        assert f"bad.jsonl, {message}" in capsys.readouterr().err


def test_names_of_control_tokens_in_prompts_are_text():
    engine, seen = ScriptedEngine(), []
    engine.generate = lambda prompts, settings: [seen.extend(prompts) or [type("Completion", (), {"text": "x"})]]
    assert self_instruct.EngineLM(engine).generate(["a</s>"], max_tokens=3) == ["x"]
    assert engine.vocabulary.decode(seen[0]) == "a</s>"
