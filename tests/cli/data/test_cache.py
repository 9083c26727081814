"""`t5x_like cache`: its report matches the caches and rows, and its flags reach the build program."""

import os
import re

import pytest

from t5x_like.cli.data import cache as command
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.data.cache import token_cache
from t5x_like.data.cache.token_cache import TokenCache

FILES = [f"--gin_file={name}" for name in ("sizes/llama/tiny.gin", "objectives/causal_lm.gin", "optimizers/adamw.gin")]
FILES += ["--gin_file=runs/pretrain.gin", "--gin.VOCAB_SIZE=384", "--gin.STEPS=3", "--gin.WARMUP_STEPS=1"]
FILES += ["--gin.LENGTH=16", "--gin.RUN_DIR=unused", "--gin.TASK=tiny"]


@pytest.fixture
def at_root(tiny_root, monkeypatch):
    monkeypatch.setenv("T5X_LIKE_CACHE", str(tiny_root))
    monkeypatch.setenv(token_cache.FLAGS_VARIABLE, "")
    return tiny_root


def test_a_run_file_is_reported_by_split_and_rows(at_root, capsys):
    assert command.main([*FILES, "--verify"]) == 0
    out = capsys.readouterr().out
    for split in ("train", "validation"):
        cache = TokenCache("tiny", split)
        feature = cache.manifest["features"]["targets"]
        line = re.search(rf"^tiny/{split} +(\S+) +(\S+) targets +(\S+) +0 *$", out, re.MULTILINE)
        rate = f"{feature['tokens'] / feature['text_bytes']:.3f}"
        assert line.groups() == (f"{cache.manifest['documents']:,}", f"{feature['tokens']:,}", rate)
        assert f"{cache.folder}  fingerprint {cache.manifest['fingerprint']}" in out
    rows = len(TokenCache("tiny", "train").tokens("targets")) // 16
    assert f"train_rows: rows {rows:,}, " in out and "fill_decoder 100.0%" in out


def test_a_task_needs_no_run_file(at_root, capsys):
    assert command.main(["--task=pairs", "--split=train", "--workers=2"]) == 0
    assert re.search(r"^pairs/train +90 +[\d,]+ inputs \+ [\d,]+ targets", capsys.readouterr().out, re.MULTILINE)
    assert os.environ[token_cache.FLAGS_VARIABLE] == "--workers=2"


def test_pipeline_options_reach_the_build_program(at_root):
    command.main(["--task=pairs", "--split=train", "--runner=DirectRunner", "--", "--a=b c", "--gin.x=1"])
    assert os.environ[token_cache.FLAGS_VARIABLE] == "--runner=DirectRunner -- '--a=b c' --gin.x=1"


@pytest.mark.parametrize(
    "flags, message",
    [
        ([], "give either --gin_file=... or --task=..."),
        (["--task=a", "--gin_file=b"], "give either"),
        (["--task=a", "--", "--region=x"], "there is no --runner"),
        (["--task=a", "--workers=0"], "--workers: 0 is not 1 or more"),
    ],
)
def test_conflicting_flags_raise(flags, message):
    with pytest.raises(ConfigError, match=message):
        command.main(flags)
