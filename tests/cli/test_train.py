"""`t5x_like train`: mistakes are one line, and are found before any data is tokenized."""

import jax.numpy as jnp
import pytest

from t5x_like import checkpoints
from t5x_like.cli import main
from t5x_like.data.cache.token_cache import TokenCache

FILES = ("sizes/llama/tiny.gin", "tasks/python_source_bytes.gin", "objectives/causal_lm.gin", "optimizers/adamw.gin")


@pytest.fixture
def train(tmp_path, monkeypatch, capsys):
    """`train(run_file, **macros)` returns the error of a command that must not open any data."""

    def opened(cache):
        raise AssertionError(f"{cache.task} was opened")

    monkeypatch.setattr(TokenCache, "ensure", opened)

    def run(run_file="runs/pretrain.gin", **macros):
        given = {"RUN_DIR": tmp_path / "run"} | macros
        flags = [f"--gin_file={name}" for name in (*FILES, run_file)]
        assert main.main(["train", *flags, "--compile_cache=", *(f"--gin.{k}={v}" for k, v in given.items())]) == 2
        assert not (tmp_path / "run").exists()
        return capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("macros", "message"),
    [
        ({"STEPS": "abc"}, "--gin.STEPS=abc: STEPS='abc': schedules.cosine.steps must be int"),
        ({"STEPS": "1e3"}, "--gin.STEPS=1e3: STEPS=1000.0: "),
        ({"LEARNING_RATE": "high"}, "schedules.cosine.learning_rate must be float"),
        ({"BATCH_SIZE": "None"}, "trainer.train.batch_size must be int"),
        ({"STEPS": 50}, "warmup_steps=100 and steps=50: need 0 <= warmup_steps <= steps"),
        ({"TRAIN_STEPS": 50}, "T5X's TRAIN_STEPS is here: STEPS"),
        ({"WIDTH": "'64'"}, "must be int"),
        ({"SEED": 2**63}, f"seed={2**63} is not a whole number in 0 .. 2^63 - 1"),
        ({"SEED": -1}, "seed=-1 is not"),
        ({"BATCH_SIZE": 0}, "batch_size=0 is not a positive whole number"),
        ({"trainer.train.log_every": -5}, "log_every=-5 is not a positive"),
        ({"LEARNING_RATE": -0.1}, "learning_rate=-0.1 is not finite, and 0 or more"),
        ({"DROPOUT": 2}, ".dropout=2 is not a rate"),
        ({"HEADS": 0}, "SelfAttention.num_heads=0 is not a positive whole number"),
        ({"lm.LanguageModel.label_smoothing": 1.5}, "LanguageModel.label_smoothing=1.5"),
        ({"RUN_DIR": "''"}, "RUN_DIR is empty"),
        ({"RUN_DIR": "gs://bucket/run"}, "RUN_DIR=gs://bucket/run is a URL"),
        ({"RUN_DIR": f"{__file__}/run"}, f"{__file__} is a file; give a folder"),
        ({"trainer.Checkpointing.every": 0}, "Checkpointing.every=0 is not a positive"),
    ],
)
def test_wrong_values_are_refused_before_data_is_opened(train, macros, message):
    assert message in train(**macros)


def test_the_run_to_start_from_is_checked_before_data_is_opened(train, tmp_path):
    assert "initialize_from: no checkpoint in /nowhere/checkpoints" in train("runs/finetune.gin", INITIAL="/nowhere")
    saver = checkpoints.Checkpointer(tmp_path / "other/checkpoints")
    saver.save(3, {"params": {"embed": {"table": jnp.ones((2, 2))}}}, {"data": "x"})
    saver.close()
    message = train("runs/finetune.gin", INITIAL=tmp_path / "other")
    assert "initialize_from: " in message and "does not fit the model" in message
    assert "'nothing' is found in no parameter's path" in train(
        "runs/finetune.gin", INITIAL=tmp_path / "other", EXCLUDE="('nothing',)"
    )
