"""UL2's denoisers (Tay et al. 2022, arXiv:2205.05131): they choose the noise tokens of a text."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from t5x_like.data.noise import base as noise

MODES = "RSX"
Side = tuple[np.ndarray, np.ndarray]  # tokens [n, L] and counts [n] of inputs or targets


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """Hides `density` of a text in spans of `mean_span` tokens (None: one span at the end), after a token of its mode.

    `rate` is its share of the rows, relative to the other denoisers' rates. The length of a span at the end is uniform
    with mean density * length.
    """

    mode: str
    density: float
    mean_span: float | None = None
    rate: float = 1.0

    def __post_init__(self) -> None:
        if self.mode not in (*MODES,):
            raise ValueError(f"mode={self.mode!r} is none of {', '.join(MODES)}, the modes of UL2; use one")
        most = 1.0 if self.mean_span else 0.5
        if not 0 < self.density < most:
            raise ValueError(f"density={self.density} is not between 0 and {most}; UL2 uses 0.15, 0.25 and 0.5")
        if self.mean_span is not None and self.mean_span < 1:
            raise ValueError(f"mean_span={self.mean_span} is less than one token; UL2 uses 3, 8 and 64")
        if not self.rate > 0:
            raise ValueError(f"rate={self.rate} is not above 0; remove a denoiser that is not used")

    def longest_end(self, length: int) -> int:
        """The maximal number of tokens in a span at the end of a text of `length`."""
        return min(max(2 * round(self.density * length) - 1, 1), length - 1)

    def counts(self, length: int) -> tuple[int, int]:
        """(noise tokens, noise spans) of a text of `length`, at most."""
        if self.mean_span is None:
            return self.longest_end(length), 1
        return noise.span_counts(length, self.density, self.mean_span)

    def sizes(self, length: int) -> tuple[int, int]:
        """(input, target) tokens of a text of `length`, at most, including sentinels."""
        hidden, spans = self.counts(length)
        return length - (1 if self.mean_span is None else hidden) + spans, hidden + spans

    def draw_spans(self, bits_nT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(kept, noise): the lengths [n, S] of the alternating spans that texts of T tokens are split into."""
        length = bits_nT.shape[1]
        if self.mean_span is not None:
            return noise.draw_spans(bits_nT, self.density, self.mean_span)
        end_n1 = 1 + noise.integers_below(bits_nT[:, :1], self.longest_end(length))
        return length - end_n1, end_n1


# The seven of the paper's table 1, equally often.
PAPER = (
    Denoiser("R", 0.15, 3.0),
    Denoiser("R", 0.15, 8.0),
    Denoiser("S", 0.25),
    Denoiser("X", 0.5, 3.0),
    Denoiser("X", 0.5, 8.0),
    Denoiser("X", 0.15, 64.0),
    Denoiser("X", 0.5, 64.0),
)


def choose_denoisers(uniform_n: np.ndarray, denoisers: Sequence[Denoiser]) -> np.ndarray:
    """The index of every row's denoiser, drawn at their rates."""
    edges = np.cumsum([denoiser.rate for denoiser in denoisers])
    return np.searchsorted(edges[:-1] / edges[-1], uniform_n, side="right")


def corrupt(
    flat: np.ndarray,
    begin_n: np.ndarray,
    bits_nT: np.ndarray,
    which_n: np.ndarray,
    denoisers: Sequence[Denoiser],
    sentinel: int,
    lengths: tuple[int, int],
) -> tuple[Side, Side]:
    """(inputs, targets), each (tokens, counts), of texts corrupted by each row's denoiser; padded to `lengths`, without eos.

    Texts begin at `begin_n` of the tokens `flat`. See `noise.base.corrupt`.
    """
    rows = len(begin_n)
    inputs = np.empty((rows, lengths[0]), np.int32), np.empty(rows, np.int64)
    targets = np.empty((rows, lengths[1]), np.int32), np.empty(rows, np.int64)
    for number, denoiser in enumerate(denoisers):
        row_m = np.flatnonzero(which_n == number)
        cuts = denoiser.draw_spans(bits_nT[row_m])
        parts = noise.corrupt(flat, begin_n[row_m], *cuts, sentinel, lengths)
        for (tokens, count_n), part, length_mS in zip((inputs, targets), parts, cuts, strict=True):
            tokens[row_m], count_n[row_m] = part, (length_mS + 1).sum(axis=1)
    return inputs, targets
