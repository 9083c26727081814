"""Tables planted from a known law: published constants, inputs over the ranges of the papers, and noise."""

from collections.abc import Mapping

import numpy as np

from t5x_like.scaling.laws import laws
from t5x_like.scaling.laws.laws import Law
from t5x_like.scaling.laws.table import Table

CHINCHILLA = {"E": 1.82, "A": 482.0, "B": 2085.0, "alpha": 0.348, "beta": 0.366}
CONSTANTS = {
    "chinchilla": CHINCHILLA,
    "chinchilla_tied": {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353},
    "kaplan_n": {"N_c": 8.8e13, "alpha_N": 0.076},
    "kaplan_d": {"D_c": 5.4e13, "alpha_D": 0.095},
    "kaplan_c": {"C_c": 3.1e8 * laws.PF_DAY, "alpha_C": 0.050},
    "kaplan_nd": {"N_c": 6.4e13, "D_c": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103},
    "loss_vs_compute": {"E": 1.7, "k": 2e3, "p": 0.17},
    "data_constrained": {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353, "R_D": 15.4, "R_N": 5.3},
    "broken": {"a": 0.5, "b": 100.0, "c0": 0.1, "c1": 0.2, "d": 1e18, "f": 0.4},
    "sigmoid": {"low": 0.25, "high": 0.9, "k": 6.0, "middle": 2.4},
}


def runs(count: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs over sizes, tokens and epochs; `loss` is the input of the sigmoid."""
    generator = np.random.default_rng(seed)
    n, d = 10 ** generator.uniform(6, 9.5, count), 10 ** generator.uniform(8, 11.5, count)
    unique = np.minimum(d, 10 ** generator.uniform(8, 10.5, count))
    loss = generator.uniform(1.5, 3.5, count)
    return {"n_params": n, "tokens": d, "unique_tokens": unique, "flops_6nd": 6 * n * d, "loss": loss}


def table(law: Law, count: int, noise: float = 0.003, seed: int = 0, columns: Mapping | None = None) -> Table:
    """Runs whose target is the law's, with normal noise on the scale of the fit."""
    columns = runs(count, seed) if columns is None else dict(columns)
    clean = law.targets(Table({law.target: law.predict(law.theta(CONSTANTS[law.name]), columns)[0]}))
    noisy = clean + np.random.default_rng(seed + 1).normal(0, noise, len(clean))
    return Table(columns | {law.target: law.inverse_transform(noisy)})
