"""`t5x_like eval --lm_eval`: the harness's table, and a record with what its results depend on."""

import importlib.util
import json

import pytest
import tokenizers

from t5x_like.cli import main
from tests.evaluation import harness_models, harness_tasks


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """An imported model that reads every character as the same token."""
    root = tmp_path_factory.mktemp("harness")
    folder = harness_models.write("gpt2", root / "hf")
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"[\s\S]"), "isolated")
    tokenizer.save(str(folder / "tokenizer.json"))
    assert main.main(["hf", "import", str(folder), f"--out={root / 'run'}"]) == 0
    harness_tasks.write(root / "tasks")
    return root / "run"


def evaluate(run_dir, *flags):
    return main.main(["eval", f"--run_dir={run_dir}", "--compile_cache=", "--batch_size=4", *flags])


@pytest.fixture
def harness(run_dir, monkeypatch, tmp_path):
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("lm_eval")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")

    def run(*flags):
        return evaluate(run_dir, f"--lm_eval_tasks_dir={run_dir.parent / 'tasks'}", *flags)

    return run


def test_the_table_is_printed_and_every_task_has_a_record(run_dir, harness, tmp_path, capsys):
    names = sorted(harness_tasks.KINDS)
    assert harness(f"--lm_eval={','.join(names)}") == 0
    table = capsys.readouterr().out
    folder, found = run_dir / "evaluations/lm_eval", {}
    for name in names:
        (path,) = (folder / name).iterdir()
        found[name] = record = json.loads(path.read_text())
        assert path.name == f"{record['step']}.json" and record["task"] == name and name in table
        assert record["versions"]["task"] == 3.0 and record["versions"]["lm_eval"] >= "0.4.13"
        assert (
            record["n_shot"] == 0 and len(record["prompts"]) == 64 and record["settings"]["limits"] == {"decoder": 24}
        )
        assert record["count"] == len(record["examples"]) == (3 if name == "tiny_rolling" else 5)
    choices = found["tiny_choices"]
    assert choices["decontamination"] == {"should_decontaminate": True, "doc_to_decontamination_query": "question"}
    assert found["tiny_rolling"]["decontamination"]["should_decontaminate"] is False
    assert set(choices["metrics"]) == set(choices["stderr"]) == {"acc,none", "acc_norm,none"}
    # All characters are one token, so the longer of two choices is the less likely one.
    assert choices["metrics"]["acc,none"] == pytest.approx(2 / 5)
    sums = [float(response[0][0]) for response in choices["examples"][0]["resps"]]
    assert sums[1] > sums[0] > sums[2]


def test_prompts_of_other_examples_have_another_hash(harness, tmp_path, capsys):
    hashes = []
    for number, shots in enumerate((0, 0, 1)):
        flags = f"--num_fewshot={shots}", "--limit=2", "--json", f"--out={tmp_path / str(number)}"
        assert harness("--lm_eval=tiny_choices", *flags) == 0
        (path,) = (tmp_path / str(number) / "lm_eval/tiny_choices").iterdir()
        record = json.loads(path.read_text())
        assert record["n_shot"] == shots and record["count"] == 2
        printed = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert printed["metrics"] == record["metrics"] and printed["task"] == "tiny_choices"
        hashes.append(record["prompts"])
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--lm_eval=tiny_choice"],
            "--lm_eval=tiny_choice: lm-evaluation-harness has no such task; did you mean tiny_choices",
        ),
        (["--lm_eval=tiny_choices", "--chat"], "has no chat template"),
        (["--lm_eval=tiny_choices", "--max_length=99"], "max_length=99 must be 1 or more and at most 24"),
        (
            ["--lm_eval=tiny_choices", "--gin_file=decoding/greedy.gin"],
            "gin files of decoding/ do not apply to --lm_eval",
        ),
        (["--lm_eval=tiny_choices", "--tasks=x"], "--tasks=x does not apply to --lm_eval"),
        (["--lm_eval=tiny_choices", "--split=train"], "--split=train does not apply to --lm_eval"),
        (["--lm_eval=tiny_choices", "--examples=3"], "--examples=3 applies to --tasks"),
    ],
)
def test_mistakes_are_refused(harness, monkeypatch, capsys, flags, message):
    tasks = pytest.importorskip("lm_eval.tasks")
    original = tasks.TaskManager  # without the harness's own 14,000 tasks, which take long to read
    monkeypatch.setattr(tasks, "TaskManager", lambda **options: original(**options | {"include_defaults": False}))
    assert harness(*flags) == 2
    assert message in capsys.readouterr().err


def test_flags_of_the_harness_need_it(run_dir, monkeypatch, capsys):
    assert evaluate(run_dir, "--num_fewshot=1") == 2
    assert "--num_fewshot=1 applies to --lm_eval, which is not given" in capsys.readouterr().err
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert evaluate(run_dir, "--lm_eval=x") == 2
    assert "pip install 't5x_like[lm_eval]'" in capsys.readouterr().err
