"""Training on a mixture: rates are met, every task has its own metrics, and these add up to the metrics of the batch."""

import json

import jax
import numpy as np
import pytest

from t5x_like.cli.gin import runtime
from t5x_like.data import rows
from t5x_like.data.mixing import Mixture
from t5x_like.data.stream import Stream
from t5x_like.objectives.lm import LanguageModel
from tests import tiny, tiny_cache

RATES = {"words": 3, "letters": 1}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Writes the caches of two different tasks: random words, and one repeated letter."""
    root = tmp_path_factory.mktemp("mixtures")
    for split in ("train", "validation"):
        tiny_cache.write(root, {"targets": tiny_cache.documents(100, 1)}, "words", split)
        tiny_cache.write(root, {"targets": ["e" * 400 for _ in range(6)]}, "letters", split)
    return root


@pytest.fixture(scope="module")
def run(root, tmp_path_factory):
    """Returns the lines of metrics.jsonl of a run on both tasks, with the rates of RATES."""
    run_dir = tmp_path_factory.mktemp("run")
    names = ("sizes/llama/tiny", "objectives/causal_lm", "optimizers/adamw", "runs/pretrain")
    macros = {"TASK": repr(RATES), "RUN_DIR": run_dir, "VOCAB_SIZE": 384, "LENGTH": 16, "STEPS": 32, "WARMUP_STEPS": 1}
    macros |= {"mixing.mix_tasks.window": 64, "token_cache.TokenCache.root": root}
    macros |= {"trainer.train.log_every": 16, "trainer.Evaluation.batches": 2}
    overrides = [f"--gin.{name}={value}" for name, value in macros.items()]
    config = runtime.parse([f"{name}.gin" for name in names], overrides)
    config.bind("trainer.train")(config=config.resolved_config())
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line], [line for line in lines if "eval/loss" in line]


def test_rates_of_a_run_are_those_of_the_mixture(run):
    for line in run[0]:  # 16 steps of 8 rows: two windows, with exact shares
        assert {task: line[f"task_rate/{task}"] for task in RATES} == {"words": 0.75, "letters": 0.25}


def test_losses_of_the_tasks_add_up_to_the_loss(run):
    for line in run[0]:
        parts = [line[f"task_loss/{task}"] * line[f"task_tokens/{task}"] for task in RATES]
        assert sum(parts) == pytest.approx(line["loss"], rel=1e-5)
    assert run[0][-1]["task_loss/letters"] < run[0][-1]["task_loss/words"]


def test_every_task_is_evaluated(run):
    (line,) = run[1]
    tokens = [line[f"eval/{task}/target_tokens"] for task in RATES]
    losses = [line[f"eval/{task}/loss"] for task in RATES]
    assert line["eval/target_tokens"] == sum(tokens)
    assert line["eval/loss"] == pytest.approx(np.dot(losses, tokens) / sum(tokens), rel=1e-5)
    assert line["eval/letters/loss"] < line["eval/words/loss"]


@pytest.mark.parametrize("prefix", [3, 17, 40])
def test_rates_of_a_part_of_a_window_are_within_sampling_error(root, prefix):
    parts = [rows.CausalLM(cache, 16) for cache in (tiny_cache.TokenCache(t, "train", root=str(root)) for t in RATES)]
    stream = Stream(Mixture(parts, tuple(RATES.values()), window=4096), 64, seed=5)
    share = np.mean(np.concatenate([stream[k]["task_one_hot"][:, 1] for k in range(prefix)]))
    assert abs(share - 0.25) < 4 * np.sqrt(0.25 * 0.75 / (64 * prefix))


@pytest.mark.parametrize("side", ["decoder", "encoder"])
def test_the_loss_of_a_task_is_that_of_its_rows(side):
    model = tiny.decoder() if side == "decoder" else tiny.encoder()
    objective = LanguageModel(side=side)
    batch = tiny.batch(rows=8, sides=(side,))
    params = tiny.init(model, batch)
    task_B = np.array([0, 1, 1, 0, 1, 1, 1, 0])
    mixed = batch | {"task_one_hot": np.eye(2, dtype=np.float32)[task_B]}
    totals, counts = jax.jit(lambda b: objective(model.apply, params, b)[2]["task_loss"])(mixed)
    for task in (0, 1):
        alone = {name: x[task_B == task] for name, x in batch.items()}
        total, count = objective(model.apply, params, alone)[2]["loss"]
        np.testing.assert_allclose([totals[task], counts[task]], [total, count], rtol=1e-5)
