"""Losses of preferences equal TRL, choix and slow formulas in values and gradients; the laws of losses of pairs."""

import functools
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from t5x_like.objectives import preference, reference_free, rewards, unpaired
from t5x_like.objectives.preference import PAIR_LOSSES, log_ratios, pair_loss, pair_metrics, sequence_logps

EXPECTED, BY_TOKEN = (
    json.loads((Path(__file__).parent / name).read_text()) for name in ("preference.json", "preference_tokens.json")
)
FUNCTIONS = {name: functools.partial(pair_loss, name) for name in PAIR_LOSSES} | {
    "aot": preference.aot,
    "simpo": reference_free.simpo,
    "cpo": reference_free.cpo,
    "orpo": reference_free.orpo,
    "kto": unpaired.kto,
    "bco": unpaired.bco,
    "bradley_terry": rewards.bradley_terry,
    "ranked_pairs": rewards.ranked_pairs,
    "plackett_luce": rewards.plackett_luce,
}
EACH = {case["name"]: case for case in EXPECTED["cases"]}  # the last case of each function

ONE = np.ones(2, np.float32)


def compute(case, dtype):
    """The loss [N] of a case and its gradients by argument, compiled, from arguments of one type."""
    mix = np.array(EXPECTED["mix"])[: len(case["loss"])]
    inputs = {
        name: np.array(x, dtype if np.array(x).dtype == float else np.int32) for name, x in case["inputs"].items()
    }

    def total(wrt):
        loss = FUNCTIONS[case["name"]](**(inputs | wrt), **case["options"])
        return jnp.sum(loss * mix.astype(loss.dtype)), loss

    (_, loss), gradients = jax.jit(jax.value_and_grad(total, has_aux=True))({k: inputs[k] for k in case["gradients"]})
    assert loss.dtype == dtype and all(x.dtype == dtype for x in gradients.values())
    return loss, gradients


def test_every_function_has_cases():
    assert set(EACH) == set(FUNCTIONS)


@pytest.mark.parametrize("case", EXPECTED["cases"], ids=lambda case: case["name"])
def test_losses_and_gradients_equal_independent_ones_in_float64(case):
    with jax.enable_x64(True):
        loss, gradients = compute(case, np.float64)
    np.testing.assert_allclose(loss, case["loss"], rtol=1e-10, atol=1e-12)
    for name, expected in case["gradients"].items():
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("case", EACH.values(), ids=EACH)
def test_losses_and_gradients_equal_independent_ones_in_float32(case):
    loss, gradients = compute(case, np.float32)
    np.testing.assert_allclose(loss, case["loss"], rtol=1e-4, atol=1e-5)
    for name, expected in case["gradients"].items():
        np.testing.assert_allclose(gradients[name], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("case", BY_TOKEN["cases"], ids=lambda case: case["loss_type"])
def test_losses_of_token_log_probabilities_equal_those_of_trl(case):
    """TRL's "ipo" and "sigmoid_norm" are means over tokens, the others sums; gradients of masked tokens are 0."""
    name = {"sigmoid_norm": "sigmoid"}.get(case["loss_type"], case["loss_type"])
    reduce = "mean" if case["loss_type"] in ("ipo", "sigmoid_norm") else "sum"
    smoothing = case["label_smoothing"] or None

    def mean(policy_NL):
        arrays = (np.array(BY_TOKEN[key]) for key in ("reference_NL", "mask_NL"))
        chosen_N, rejected_N = jnp.split(log_ratios(policy_NL, *arrays, reduce), 2)
        return jnp.mean(pair_loss(name, chosen_N, rejected_N, beta=BY_TOKEN["beta"], label_smoothing=smoothing))

    with jax.enable_x64(True):
        loss, gradient = jax.jit(jax.value_and_grad(mean))(np.array(BY_TOKEN["policy_NL"]))
    np.testing.assert_allclose(loss, case["loss"], rtol=1e-10)
    np.testing.assert_allclose(gradient, case["gradient"], rtol=1e-10, atol=1e-14)
    assert not np.any(np.asarray(gradient)[np.array(BY_TOKEN["mask_NL"]) == 0])


def test_metrics_equal_those_of_trl():
    arrays = (np.array(BY_TOKEN[key], np.float32) for key in ("policy_NL", "reference_NL", "mask_NL"))
    metrics = pair_metrics(*jnp.split(log_ratios(*arrays), 2), beta=BY_TOKEN["beta"])
    ours = {"chosen": "chosen_reward", "rejected": "rejected_reward", "margins": "reward_margin"}
    for name, expected in BY_TOKEN["rewards"].items():
        total, count = metrics[ours.get(name.removeprefix("rewards/"), "reward_accuracy")]
        np.testing.assert_allclose(total / count, expected, rtol=1e-5)


def test_metrics_of_padding_count_nothing_and_have_no_gradient():
    chosen, rejected, weights = jnp.array([1.0, 2.0, 9.0]), jnp.array([2.0, 1.0, 3.0]), jnp.array([1.0, 1.0, 0.0])
    part = pair_metrics(chosen[:2], rejected[:2], beta=0.5)
    padded = pair_metrics(chosen, rejected, beta=0.5, weights_N=weights)
    assert jax.tree.map(float, part) == jax.tree.map(float, padded)
    assert part["reward_accuracy"] == (1.0, 2.0) and part["chosen_reward"] == (1.5, 2.0)
    slope = jax.grad(lambda x: sum(total for total, _ in pair_metrics(x, rejected).values()))(chosen)
    assert not slope.any()


def test_reductions_equal_those_of_trl():
    expected = EXPECTED["tokens"]
    with jax.enable_x64(True):
        logps_NL, mask_NL = np.array(expected["logps_NL"]), np.array(expected["mask_NL"])
        for reduce in ("sum", "mean"):
            ours = sequence_logps(logps_NL, mask_NL, reduce)
            np.testing.assert_allclose(ours, expected[reduce], rtol=1e-12)
        ours = jnp.mean(sequence_logps(logps_NL, mask_NL, "token_mean"))
        np.testing.assert_allclose(ours, expected["token_mean"], rtol=1e-12)


@pytest.mark.parametrize("reduce", preference.REDUCTIONS)
def test_masked_tokens_count_nothing_whatever_their_value(reduce):
    logps = jnp.array([[-1.0, -2.0, -jnp.inf], [jnp.nan, -jnp.inf, jnp.nan]])
    mask = jnp.array([[1, 1, 0], [0, 0, 0]])
    value, gradient = jax.value_and_grad(lambda x: jnp.sum(sequence_logps(x, mask, reduce)))(logps)
    assert np.isfinite(value) and np.isfinite(gradient).all() and not gradient[mask == 0].any()
    assert gradient[0, 0] == {"sum": 1, "mean": 0.5, "token_mean": 1}[reduce]


def test_no_gradient_flows_into_the_reference():
    logps, mask = -jnp.ones((2, 3)), jnp.ones((2, 3))
    assert not jax.grad(lambda x: jnp.sum(log_ratios(logps, x, mask)))(logps).any()


def test_losses_where_policy_and_reference_are_equal():
    zeros = jnp.zeros(3)
    expected = dict.fromkeys(("sigmoid", "robust", "aot_unpaired"), math.log(2)) | {
        "ipo": (1 / (2 * 0.1)) ** 2,
        "sppo_hard": 2 * (1 / (2 * 0.1)) ** 2,
        "hinge": 1,
        "nca_pair": 2 * math.log(2),
        "apo_zero": 1,
        "apo_down": 1,
        "discopop": 0.5 * (math.log(2) + 1),
        "exo_pair": 0.5 * (math.log(0.5 / 0.999) + math.log(0.5 / 0.001)),
    }
    assert set(expected) == set(PAIR_LOSSES)
    for name, value in expected.items():
        np.testing.assert_allclose(pair_loss(name, zeros, zeros, beta=0.1), value, rtol=1e-5)


def test_swapping_chosen_and_rejected_flips_the_margin():
    chosen, rejected = jax.random.normal(jax.random.key(0), (2, 8))
    one, other = pair_metrics(chosen, rejected, beta=0.3), pair_metrics(rejected, chosen, beta=0.3)
    np.testing.assert_allclose(one["reward_margin"][0], -other["reward_margin"][0], rtol=1e-6)
    assert one["reward_accuracy"][0] + other["reward_accuracy"][0] == 8
    # Swapped labels are labels that are wrong with probability 1 - e.
    right, wrong = (pair_loss("sigmoid", *pair, beta=0.3) for pair in ((chosen, rejected), (rejected, chosen)))
    smooth = pair_loss("sigmoid", chosen, rejected, beta=0.3, label_smoothing=0.2)
    np.testing.assert_allclose(smooth, 0.8 * right + 0.2 * wrong, rtol=1e-5)


def test_the_robust_loss_of_noisy_labels_is_the_loss_of_right_ones_on_average():
    chosen, rejected = jax.random.normal(jax.random.key(1), (2, 8)) * 5
    noisy = functools.partial(pair_loss, "robust", beta=0.5, label_smoothing=0.3)
    mean = 0.7 * noisy(chosen, rejected) + 0.3 * noisy(rejected, chosen)
    np.testing.assert_allclose(mean, pair_loss("sigmoid", chosen, rejected, beta=0.5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["sigmoid", "robust", "aot_unpaired"])
def test_smoothing_of_0_is_none(name):
    chosen, rejected = jax.random.normal(jax.random.key(0), (2, 8))
    plain = pair_loss(name, chosen, rejected, beta=0.3)
    np.testing.assert_array_equal(plain, pair_loss(name, chosen, rejected, beta=0.3, label_smoothing=0.0))
    if name != "aot_unpaired":
        np.testing.assert_array_equal(plain, pair_loss("sigmoid", chosen, rejected, beta=0.3))


@pytest.mark.parametrize("name", sorted(PAIR_LOSSES.keys() - {"apo_down", "exo_pair", "discopop"}))
def test_losses_fall_with_the_margin_of_a_pair(name):
    margins = np.linspace(-4, 4, 17)  # IPO and SPPO have their optima at 5
    losses = jax.jit(jax.vmap(lambda m: pair_loss(name, m / 2, -m / 2, beta=0.1)))(margins[:, None])[:, 0]
    assert (np.diff(losses) < 0).all()


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_every_loss_checks_its_pairs(name):
    with pytest.raises(ValueError, match="beta=-1 is not a positive number"):
        PAIR_LOSSES[name](ONE, ONE, beta=-1)
    with pytest.raises(ValueError, match="give equal shapes"):
        PAIR_LOSSES[name](ONE, jnp.ones(3), beta=1)


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_extreme_log_ratios_give_finite_losses_and_gradients(name):
    extremes = jnp.array([-1e4, -1e4, -1e4, 0, 0, 0, 1e4, 1e4, 1e4]), jnp.array([-1e4, 0, 1e4] * 3)

    def total(pair):
        loss = pair_loss(name, *pair, beta=1.0)
        return jnp.sum(loss), loss

    gradients, loss = jax.jit(jax.grad(total, has_aux=True))(extremes)
    assert all(jnp.isfinite(x).all() for x in (loss, *gradients))
    if name in ("sigmoid", "hinge"):  # linear where the pair is wrong, 0 where it is right
        np.testing.assert_allclose(loss[2], 2e4 + (name == "hinge"), rtol=1e-6)
        assert loss[6] == 0 and gradients[0][2] == -1 and gradients[0][6] == 0


def test_log_odds_are_exact_and_finite():
    logps = np.array([-1e4, -20.0, -1.0, -math.log(2), -1e-3, -1e-6, 0.0], np.float32)
    ours, slopes = jax.vmap(jax.value_and_grad(reference_free.log_odds))(logps)
    exact = logps[:-1].astype(np.float64)
    np.testing.assert_allclose(ours[:-1], exact - np.log(-np.expm1(exact)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(slopes[:-1], -1 / np.expm1(exact), rtol=1e-4)
    assert 15 < ours[-1] < 17 and np.isfinite(slopes).all()


def test_reference_free_losses_are_finite_at_the_ends_of_probabilities():
    sums, means = jnp.array([-1e4, 0.0, -1e4, 0.0]), jnp.array([-1e4, -1e4, 0.0, 0.0])
    for loss in (
        functools.partial(reference_free.simpo, beta=2.0, gamma=1.0),
        lambda *pair: reference_free.cpo(*pair, -pair[0], beta=0.1),
        lambda *pair: reference_free.orpo(*pair, -pair[0], beta=0.1),
    ):
        value, gradients = jax.value_and_grad(lambda *pair, loss=loss: jnp.sum(loss(*pair)), argnums=(0, 1))(
            sums, means
        )
        assert jnp.isfinite(value) and all(jnp.isfinite(x).all() for x in gradients)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: pair_loss("dpo", ONE, ONE, beta=1),
            "the pair loss 'dpo' is unknown; choose one of sigmoid, robust, ipo",
        ),
        (lambda: pair_loss("ipo", ONE, ONE, beta=0), "beta=0 is not a positive number"),
        (lambda: preference.aot(ONE, ONE, beta=-1), "beta=-1 is not a positive number"),
        (lambda: pair_loss("ipo", ONE, ONE, beta=math.nan), "beta=nan is not a positive number"),
        (lambda: pair_loss("ipo", ONE, jnp.ones(3), beta=1), r"chosen_N has the shape \(2,\) and rejected_N \(3,\)"),
        (
            lambda: pair_loss("ipo", ONE, ONE, beta=1, tau=0.1),
            "tau=0.1: the pair loss 'ipo' has none; .* use discopop",
        ),
        (
            lambda: pair_loss("ipo", ONE, ONE, beta=1, label_smoothing=0.1),
            "use sigmoid, robust, exo_pair, aot_unpaired",
        ),
        (lambda: pair_loss("sigmoid", ONE, ONE, beta=1, label_smoothing=0.5), r"=0.5 is not in \[0, 0.5\), .* swap"),
        (lambda: pair_loss("robust", ONE, ONE, beta=1, label_smoothing=-0.1), r"=-0.1 is not in \[0, 0.5\)"),
        (lambda: pair_loss("exo_pair", ONE, ONE, beta=1, label_smoothing=0.0), "EXO is infinite at 0: give 1e-3"),
        (
            lambda: pair_loss("discopop", ONE, ONE, beta=1, tau=0),
            r"tau=0 is not in \(0, 1\]; the paper recommends 0.05",
        ),
        (lambda: reference_free.simpo(ONE, ONE, beta=2, gamma=-1), "gamma=-1 is not a margin of 0 or more"),
        (lambda: reference_free.cpo(ONE, ONE, ONE, beta=2, alpha=-1), "alpha=-1 is not a weight of 0 or more"),
        (lambda: reference_free.orpo(ONE, ONE, jnp.ones(1), beta=1), r"chosen_nll_N \(1,\)"),
        (lambda: unpaired.kto(ONE, ONE, ONE, beta=1), r"kl has the shape \(2,\); give one number"),
        (lambda: unpaired.kto(ONE, ONE, 0.0, beta=1, desirable_weight=0), "desirable_weight=0 is not a positive"),
        (lambda: unpaired.bco(ONE, ONE, 0.0, beta=-1), "beta=-1 is not a positive number"),
        (lambda: rewards.bradley_terry(ONE, ONE, centering=-1), "centering=-1 is not a weight of 0 or more; 0.01"),
        (lambda: rewards.ranked_pairs(jnp.ones((2, 3)), jnp.ones((2, 2))), r"rewards_NK has the shape \(2, 3\)"),
        (
            lambda: sequence_logps(jnp.ones((2, 3)), jnp.ones((2, 3)), "max"),
            "reduce='max' is unknown; .* sum, mean, token",
        ),
        (lambda: log_ratios(jnp.ones((2, 3)), jnp.ones((2, 1)), jnp.ones((2, 3))), r"reference_NL \(2, 1\)"),
    ],
)
def test_wrong_arguments_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        jax.jit(call)()
