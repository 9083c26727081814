"""Replicas trained by one program equal separate runs."""

import json

import jax
import numpy as np
import pytest

from t5x_like import optimizers, partitioning
from t5x_like.data import rows
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.models import architectures, heads, linear
from t5x_like.objectives import lm
from t5x_like.optimizers import schedules
from t5x_like.scaling.sweeps import replicas
from t5x_like.scaling.sweeps.replicas import Replica
from t5x_like.training import trainer
from tests import tiny


def model():
    return architectures.DecoderOnly(linear.Embed(384, tiny.WIDTH), tiny.tower(repeats=1), heads.Untied())


def losses(run_dir) -> list[float]:
    records = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [value for record in records for name, value in record.items() if name in ("loss", "eval/loss")]


def test_replicas_equal_separate_runs(tiny_root, tmp_path):
    caches = (TokenCache("tiny", split, root=str(tiny_root)) for split in ("train", "validation"))
    train, validation = (rows.CausalLM(cache, 32) for cache in caches)
    common = dict(model=model(), objective=lm.LanguageModel(), train_rows=train, eval_rows=validation, steps=4)
    common |= dict(batch_size=4, log_every=1, eval_batches=2)
    runs = [Replica(str(tmp_path / f"replica{i}"), rate, seed) for i, (rate, seed) in enumerate(((0.03, 0), (0.01, 7)))]

    def optimizer(rate):
        return optimizers.adamw(schedules.cosine(rate, 4, 1, 0.0))

    grouped = {name: x for name, x in common.items() if not name.startswith("eval_")}
    grouped["evaluation"] = trainer.Evaluation(validation, batches=2)
    assert replicas.train(runs, optimizer=optimizer(0.01), **grouped) == []
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    for i, replica in enumerate(runs):
        alone = tmp_path / f"alone{i}"
        tiny.train(
            run_dir=str(alone), optimizer=optimizer(replica.learning_rate), seed=replica.seed, mesh=mesh, **common
        )
        np.testing.assert_allclose(losses(tmp_path / f"replica{i}"), losses(alone), rtol=1e-5)
    assert losses(tmp_path / "replica0") != losses(tmp_path / "replica1")


def test_unsupported_parameters_are_refused():
    with pytest.raises(ValueError, match="initialize_from of trainer.train"):
        replicas.check_parameters({"model", "steps", "initialize_from"})
