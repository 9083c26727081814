"""Every law: fits recover planted constants, values match the papers, and theta and constants convert both ways."""

import numpy as np
import pytest

from t5x_like.scaling.laws import fit, laws
from t5x_like.scaling.laws.laws import ALL_LAWS
from tests.scaling.laws import planted

ids = [law.name for law in ALL_LAWS]


@pytest.mark.parametrize("law", ALL_LAWS, ids=ids)
def test_planted_constants_lie_within_their_intervals(law):
    """At 99.9%, because all intervals of all laws must hold."""
    rows = planted.table(law, 96)
    result = fit.fit(rows, law, starts=64, bootstraps=192, level=0.999)
    for name, truth in planted.CONSTANTS[law.name].items():
        it = result.parameters[name]
        assert it.identified, f"{name}: {it.why}"
        assert it.low <= truth <= it.high, f"{name}: {it}"
    assert result.certificate.share > 0.3


@pytest.mark.parametrize("law", ALL_LAWS, ids=ids)
def test_theta_and_constants_are_inverse(law):
    constants = planted.CONSTANTS[law.name]
    assert law.constants(law.theta(constants)) == pytest.approx(constants, rel=1e-12)


def value_at(law, **columns):
    """The planted law at one run."""
    theta = law.theta(planted.CONSTANTS[law.name])
    return law.predict(theta, {name: [value] for name, value in columns.items()})[0, 0]


def test_the_laws_are_the_papers_equations():
    assert value_at(laws.KAPLAN_N, n_params=1.5e9) == pytest.approx((8.8e13 / 1.5e9) ** 0.076, rel=1e-12)
    assert value_at(laws.KAPLAN_C, flops_6nd=laws.PF_DAY) == pytest.approx(3.1e8**0.05, rel=1e-12)
    both = ((6.4e13 / 1e9) ** (0.076 / 0.103) + 1.8e13 / 1e10) ** 0.103
    assert value_at(laws.KAPLAN_ND, n_params=1e9, tokens=1e10) == pytest.approx(both, rel=1e-12)
    loss = 1.82 + 482 / 7e10**0.348 + 2085 / 1.4e12**0.366
    assert value_at(laws.CHINCHILLA, n_params=7e10, tokens=1.4e12) == pytest.approx(loss, rel=1e-12)
    broken = 0.5 + 100 * 1e19**-0.1 * (1 + (1e19 / 1e18) ** (1 / 0.4)) ** (-0.2 * 0.4)
    assert value_at(laws.BROKEN, flops_6nd=1e19) == pytest.approx(broken, rel=1e-12)
    assert value_at(laws.SIGMOID, loss=2.4) == pytest.approx((0.25 + 0.9) / 2, rel=1e-12)


def test_repeats_lower_the_loss_by_less_and_less():
    tokens = 1e9 * np.array([1.0, 2.0, 4.0, 16.0, 1000.0])
    theta = laws.DATA_CONSTRAINED.theta(planted.CONSTANTS["data_constrained"])
    columns = {"n_params": np.full(5, 1e7), "tokens": tokens, "unique_tokens": np.full(5, 1e9)}
    repeated = laws.DATA_CONSTRAINED.predict(theta, columns)[0]
    fresh = laws.DATA_CONSTRAINED.predict(theta, columns | {"unique_tokens": tokens})[0]
    assert repeated[0] == fresh[0]
    assert (np.diff(repeated) < 0).all()
    assert (repeated[1:] > fresh[1:]).all()
    gain = (repeated[0] - repeated) / (fresh[0] - fresh + (fresh[0] == fresh))
    assert gain[2] > 0.9 > gain[4]  # four epochs are nearly as good as fresh tokens, a thousand are not


def test_laws_are_found_by_name():
    assert laws.find_law("chinchilla", laws.CHINCHILLA.inputs, "loss") == laws.CHINCHILLA
    power = laws.power_law("lr", "n_params", "tokens")
    assert laws.find_law(power.name, power.inputs, "lr").parameters == power.parameters
    with pytest.raises(KeyError):
        laws.find_law("newton", ("n_params",), "loss")
