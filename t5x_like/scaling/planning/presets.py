"""Published scaling laws by paper, to plan without a table of runs.

The papers print no covariances of their constants, so plans from presets have no intervals.
"""

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from t5x_like.scaling.laws import laws
from t5x_like.scaling.laws.laws import PF_DAY, Law


@dataclasses.dataclass(frozen=True)
class LossLaw:
    """A law of the loss over N and D, with its constants."""

    paper: str
    law: Law
    constants: dict[str, float]

    @property
    def theta(self) -> np.ndarray:
        """The constants as theta [P]."""
        return self.law.theta(self.constants)


@dataclasses.dataclass(frozen=True)
class Allocation:
    """N = k C^a and D = C / (6 N), C in FLOPs. The loss on that line, if the paper gives one, is (c / C)^alpha."""

    paper: str
    k: float
    a: float
    loss: tuple[float, float] | None = None  # (c, alpha)

    def n_params(self, flops: ArrayLike) -> np.ndarray:
        """Returns N for a budget."""
        return self.k * np.asarray(flops, np.float64) ** self.a


HOFFMANN = LossLaw(
    "Hoffmann et al. 2022, approach 3",
    laws.CHINCHILLA,
    {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28},
)
BESIROGLU = LossLaw(
    "Besiroglu et al. 2024, a refit of Hoffmann's approach 3",
    laws.CHINCHILLA,
    {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658},
)
MUENNIGHOFF = LossLaw(
    "Muennighoff et al. 2023",
    laws.DATA_CONSTRAINED,
    {"E": 1.87, "A": 521.0, "B": 1488.0, "alpha": 0.353, "beta": 0.353, "R_D": 15.387756, "R_N": 5.309743},
)
# Lines through the tables of the papers: 67e9 parameters at 5.76e23 FLOPs, 1e9 at 1.20e20.
HOFFMANN_1 = Allocation("Hoffmann et al. 2022, approach 1 (envelope)", 67e9 / 5.76e23**0.50, 0.50)
HOFFMANN_2 = Allocation("Hoffmann et al. 2022, approach 2 (IsoFLOP)", 1e9 / 1.20e20**0.49, 0.49)
KAPLAN = Allocation(
    "Kaplan et al. 2020, N = 1.3e9 C^0.73 and L = (3.1e8 / C)^0.050 with C in PF-days (8.64e19 FLOPs)",
    1.3e9 / PF_DAY**0.73,
    0.73,
    (3.1e8 * PF_DAY, 0.050),
)

PRESETS: dict[str, LossLaw | Allocation] = {
    "hoffmann": HOFFMANN,
    "hoffmann_1": HOFFMANN_1,
    "hoffmann_2": HOFFMANN_2,
    "besiroglu": BESIROGLU,
    "muennighoff": MUENNIGHOFF,
    "kaplan": KAPLAN,
}

OPTIMIZER_PAPER = "Bi et al. 2024 (DeepSeek LLM): lr = 0.3118 C^-0.1250, batch = 0.2920 C^0.3271 tokens"


def deepseek_lr(flops: float) -> float:
    """Returns the peak learning rate of AdamW by OPTIMIZER_PAPER."""
    return 0.3118 * flops**-0.1250


def deepseek_batch_tokens(flops: float) -> float:
    """Returns the tokens per optimizer step by OPTIMIZER_PAPER."""
    return 0.2920 * flops**0.3271
