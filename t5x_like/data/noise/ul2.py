"""UL2's denoisers (Tay et al. 2022, arXiv:2205.05131): which tokens of a text are noise, and what becomes of them."""

import dataclasses

import numpy as np

from t5x_like.data.noise import base as noise

MODES = "RSX"


@dataclasses.dataclass(frozen=True)
class Denoiser:
    """Hides `density` of a text in spans of `mean_span` tokens (None: one span at the end), behind a token of its mode.

    `rate` is its share of the rows, relative to the other denoisers' rates. The length of a span at the end is uniform
    with mean density * length.
    """

    mode: str
    density: float
    mean_span: float | None = None
    rate: float = 1.0

    def __post_init__(self):
        if self.mode not in (*MODES,):
            raise ValueError(f"mode={self.mode!r} is none of {', '.join(MODES)}; UL2 calls its modes so")
        most = 1.0 if self.mean_span else 0.5
        if not 0 < self.density < most:
            raise ValueError(f"density={self.density} is not between 0 and {most}; UL2 uses 0.15, 0.25 and 0.5")
        if self.mean_span is not None and self.mean_span < 1:
            raise ValueError(f"mean_span={self.mean_span} is less than one token; UL2 uses 3, 8 and 64")
        if not self.rate > 0:
            raise ValueError(f"rate={self.rate} is not above 0; leave out a denoiser that is not wanted")

    def longest_end(self, length: int) -> int:
        """The most tokens of a text of `length` that a span at the end has."""
        return min(max(2 * round(self.density * length) - 1, 1), length - 1)

    def counts(self, length: int) -> tuple[int, int]:
        """(noise tokens, noise spans) of a text of `length`, at most."""
        if self.mean_span is None:
            return self.longest_end(length), 1
        return noise.span_counts(length, self.density, self.mean_span)

    def sizes(self, length: int) -> tuple[int, int]:
        """(input, target) tokens of a text of `length`, at most, sentinels among them."""
        hidden, spans = self.counts(length)
        return length - (1 if self.mean_span is None else hidden) + spans, hidden + spans

    def spans(self, bits_nT: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(kept, noise): the lengths [n, S] of the spans by turns that texts are cut into, kept ones first."""
        length = bits_nT.shape[1]
        if self.mean_span is not None:
            return noise.spans(bits_nT, self.density, self.mean_span)
        end_n1 = 1 + noise.below(bits_nT[:, :1], self.longest_end(length))
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


def chosen(uniform_n: np.ndarray, denoisers: tuple[Denoiser, ...]) -> np.ndarray:
    """Which denoiser every row gets, at their rates."""
    edges = np.cumsum([one.rate for one in denoisers])
    return np.searchsorted(edges[:-1] / edges[-1], uniform_n, side="right")


def corrupted(
    flat, begin_n, bits_nT, which_n, denoisers: tuple[Denoiser, ...], sentinel: int, lengths: tuple[int, int]
):
    """((inputs, their counts), (targets, their counts)) as each row's denoiser has them, padded to `lengths`, without ends.

    Texts begin at `begin_n` of all tokens `flat`. See `noise.corrupted`.
    """
    sides = tuple((np.empty((len(begin_n), length), np.int32), np.empty(len(begin_n), np.int64)) for length in lengths)
    for number, denoiser in enumerate(denoisers):
        row_m = np.flatnonzero(which_n == number)
        cuts = denoiser.spans(bits_nT[row_m])
        made = noise.corrupted(flat, begin_n[row_m], *cuts, sentinel, lengths)
        for (tokens, count_n), part, length_mS in zip(sides, made, cuts, strict=True):
            tokens[row_m], count_n[row_m] = part, (length_mS + 1).sum(axis=1)
    return sides
