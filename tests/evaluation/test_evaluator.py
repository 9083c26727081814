"""Evaluation: metrics equal those of every row alone; the standard error is the standard deviation over samples of text."""

import jax
import numpy as np
import pytest

from t5x_like import partitioning
from t5x_like.data import rows
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.evaluation import evaluator
from t5x_like.objectives.lm import LanguageModel
from tests import tiny


@pytest.fixture(scope="module")
def validation(tiny_root):
    return rows.CausalLM(TokenCache("tiny", "validation", root=str(tiny_root)), 16)


@pytest.mark.parametrize("devices", [1, 8])
def test_the_loss_is_that_of_every_row_alone(validation, devices):
    model, objective = tiny.decoder(), LanguageModel()
    model = model.clone(embed=model.embed.clone(vocab_size=384))
    assert len(validation) % 32  # the last batch is filled up
    mesh = partitioning.make_mesh(devices=jax.devices()[:devices])
    evaluate = evaluator.Evaluator(model.apply, objective, validation, 32, mesh)
    every = validation.fetch(np.arange(len(validation)), np.zeros(len(validation), np.int64), 0)
    params = tiny.init(model, {name: x[:1] for name, x in every.items()})
    _, _, metrics = jax.jit(lambda params: objective(model.apply, params, every))(params)
    seen: list[str] = []
    for _ in range(2):
        results = evaluate(params, lambda items: (seen.append(item[0]) or item for item in items))
        for name, (total, count) in metrics.items():
            assert results[name] == pytest.approx(float(total / count), rel=1e-5)
    assert results["target_tokens"] == every["decoder_loss_weights"].sum()
    assert len(seen) == 2 * len(evaluate)
    assert evaluate.step._cache_size() == 1


def test_an_error_of_the_rows_is_raised(validation, monkeypatch):
    model = tiny.decoder()
    evaluate = evaluator.Evaluator(model.apply, LanguageModel(), validation, 32, partitioning.make_mesh())

    def fetch(*_):
        raise ValueError("rows are broken")

    monkeypatch.setattr(rows.CausalLM, "fetch", fetch)
    with pytest.raises(ValueError, match="rows are broken"):
        evaluate({})


def draw_batches(generator, batches, mean, least):
    """Returns (nats, tokens) of batches with correlated tokens: each batch has a different mean."""
    count_b = generator.integers(least, 150, batches)
    level_b = mean + 0.2 * generator.standard_normal(batches)
    return list(zip(level_b * count_b, count_b, strict=True))


@pytest.mark.parametrize("tasks", [((40, 1.0, 50),), ((20, 1.0, 149), (30, 3.0, 149))])
def test_the_standard_error_equals_the_deviation_over_samples_of_text(tasks):
    generator = np.random.default_rng(0)
    losses, errors = [], []
    for _ in range(500):
        measured = [draw_batches(generator, *task) for task in tasks]
        nats, tokens = np.concatenate(measured).sum(axis=0)
        losses.append(nats / tokens)
        errors.append(evaluator.standard_error(measured)["loss_se"])
    assert np.mean(errors) == pytest.approx(np.std(losses), rel=0.1)


def test_few_batches_have_no_standard_error():
    few = [(1.0, 2.0)] * (evaluator.MIN_BATCHES - 1)
    assert evaluator.standard_error([few]) == {}
    assert evaluator.standard_error([few + few, few]) == {}
    assert evaluator.standard_error([few + few]) == {"loss_se": 0.0}
