"""Evaluation: the standard error of the loss equals the standard deviation over samples of text."""

import numpy as np
import pytest

from t5x_like.evaluation import evaluator


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
