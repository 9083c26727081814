"""`t5x_like infer` with a second model: speculative decoding gives the same completions, with counts of guesses; contrastive
decoding with an amateur; runs that do not fit are refused.
"""

import json
import shutil

import pytest

from t5x_like.cli import main
from tests.cli.test_score import import_run

PROMPTS = ["a b c a b", "x"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return import_run("llama", tmp_path_factory.mktemp("llama"))


def infer(capsys, *flags):
    """(the exit code, the records, or the errors)."""
    prompts = [f"--prompt={prompt}" for prompt in PROMPTS]
    code = main.main(["infer", *prompts, *map(str, flags), "--max_new_tokens=6", "--compile_cache="])
    printed = capsys.readouterr()
    return code, printed.err if code else [json.loads(line) for line in printed.out.splitlines()]


def test_speculative_completions_are_the_greedy_ones(llama, capsys):
    _, plain = infer(capsys, f"--run_dir={llama}")
    lookup = ["--gin_file=decoding/prompt_lookup.gin", "--gin.LOOKUP_TOKENS=3"]
    for flags in (lookup, [f"--draft_run={llama}", "--draft_tokens=2"]):
        _, records = infer(capsys, f"--run_dir={llama}", *flags)
        for record, expected in zip(records, plain, strict=True):
            assert record["log_prob"] == pytest.approx(expected["log_prob"], abs=1e-4)
            assert {**record, "log_prob": 0} == {
                **expected, "log_prob": 0, "proposed": record["proposed"], "accepted": record["accepted"]
            }  # fmt: skip
            assert 0 <= record["accepted"] <= record["proposed"]
    assert all(record["accepted"] == record["proposed"] == 3 for record in records)  # of 6, 1 + (2 + 1) + (1 + 1)


def test_stop_texts_and_log_probs(llama, capsys):
    _, plain = infer(capsys, f"--run_dir={llama}")
    stop = plain[0]["completion"][-1]
    _, records = infer(capsys, f"--run_dir={llama}", f"--stop={stop}", "--stop=never", "--log_probs=2")
    for record, before in zip(records, plain, strict=True):
        assert record["completion"] == before["completion"].partition(stop)[0]
        assert [token["id"] for token in record["token_log_probs"]] == record["tokens"]
        assert [len(token["top"]) for token in record["token_log_probs"]] == [2] * len(record["tokens"])
    assert records[0]["finish_reason"] == "stop"


def test_an_amateur_chooses_among_the_plausible_tokens_alone(llama, capsys):
    _, plain = infer(capsys, f"--run_dir={llama}")
    _, records = infer(capsys, f"--run_dir={llama}", f"--amateur_run={llama}", "--alpha=1")
    assert records == [record | {"log_prob": 0.0} for record in plain]  # only the most likely token is plausible
    _, records = infer(capsys, f"--run_dir={llama}", f"--amateur_run={llama}", "--alpha=0.001")
    assert all(one["tokens"] != other["tokens"] for one, other in zip(records, plain, strict=True))
    _, guessed = infer(capsys, f"--run_dir={llama}", f"--amateur_run={llama}", "--alpha=0.001", f"--draft_run={llama}")
    assert [record["tokens"] for record in guessed] == [record["tokens"] for record in records]


def test_all_models_of_a_command_are_quantized(llama, capsys):
    int8 = ["--quantization=int8", "--kv_cache_dtype=int8"]
    (_, plain), (_, quantized) = infer(capsys, f"--run_dir={llama}"), infer(capsys, f"--run_dir={llama}", *int8)
    for record, exact in zip(quantized, plain, strict=True):
        assert record["log_prob"] != exact["log_prob"] and record["prompt"] == exact["prompt"]
    _, records = infer(capsys, f"--run_dir={llama}", f"--amateur_run={llama}", "--alpha=1", *int8)
    assert records == [record | {"log_prob": 0.0} for record in quantized]
    for name in ("quantization", "kv_cache_dtype"):
        code, errors = infer(capsys, f"--run_dir={llama}", f"--{name}=int3")
        assert code == 2 and f"--{name}: invalid choice: 'int3' (choose from 'int8')" in errors


def test_a_draft_that_does_not_fit_is_refused(llama, tmp_path, capsys):
    t5 = import_run("t5", tmp_path)
    other = tmp_path / "other"
    shutil.copytree(llama, other)
    vocabulary = next((other / "vocabulary").glob("tokenizer.json"))
    vocabulary.write_text(vocabulary.read_text().replace('"z"', '"zz"'))
    lookup = "--gin_file=decoding/prompt_lookup.gin"
    for flags, message in (
        ([f"--draft_run={other}"], "other has another vocabulary"),
        ([f"--draft_run={t5}"], "vocabulary"),
        ([f"--draft_run={llama}", lookup], "both propose tokens; give one of them"),
        (["--draft_tokens=2"], "--draft_tokens=2 applies to --draft_run, which is not given"),
        ([lookup, "--gin_file=decoding/beam.gin"], "proposer=PromptLookup needs a sampler"),
        ([f"--draft_run={tmp_path}"], "config.gin does not exist"),
        ([f"--amateur_run={other}"], "--amateur_run="),
        ([f"--amateur_run={llama}", "--alpha=0"], "alpha=0"),
        (["--alpha=0.5"], "--alpha=0.5 applies to --amateur_run, which is not given"),
        ([f"--draft_run={llama}", "--stop=a"], "speculative decoding has neither --stop nor --log_probs"),
        ([lookup, "--log_probs=2"], "log_probs=2 needs a sampler without a proposer"),
        ([lookup, "--gin.LOOKUP_TOKENS=0"], "PromptLookup.tokens=0 must be at least 1"),
    ):
        code, errors = infer(capsys, f"--run_dir={llama}", *flags)
        assert code == 2 and message in errors, errors
