"""UL2's denoisers (Tay et al. 2022, arXiv:2205.05131): which tokens of a text are noise, and what becomes of them."""

import dataclasses

import numpy as np

from t5x_like.data import noise

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

    def hidden(self, uniform_nT: np.ndarray) -> np.ndarray:
        """bool [n, T], what is noise."""
        length = uniform_nT.shape[1]
        if self.mean_span is not None:
            return noise.span_numbers(uniform_nT, self.density, self.mean_span) % 2 == 1
        end_n = 1 + (uniform_nT[:, 0] * self.longest_end(length)).astype(np.int32)
        return np.arange(length) >= length - end_n[:, None]


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


def hidden(uniform_nT: np.ndarray, which_n: np.ndarray, denoisers: tuple[Denoiser, ...]) -> np.ndarray:
    """bool [n, T], what each row's denoiser hides."""
    result = np.zeros(uniform_nT.shape, bool)
    for number, denoiser in enumerate(denoisers):
        rows = np.flatnonzero(which_n == number)
        if rows.size:
            result[rows] = denoiser.hidden(uniform_nT[rows])
    return result


def split(tokens_nT, hidden_nT, sentinel: int, lengths: tuple[int, int]):
    """((inputs, their counts), (targets, their counts)) of texts with hidden spans, padded to `lengths`, without ends.

    As T5's: a hidden span becomes a sentinel in the inputs, the targets are sentinel, span, sentinel, span, ...
    """
    first_nT = hidden_nT.copy()
    first_nT[:, 1:] &= ~hidden_nT[:, :-1]
    marks_nT = sentinel + 1 - np.cumsum(first_nT, axis=1)
    inputs = noise.compacted(np.where(first_nT, marks_nT, tokens_nT), ~hidden_nT | first_nT, lengths[0])
    both_nW, keep_nW = (
        np.stack(pair, axis=2).reshape(len(tokens_nT), -1) for pair in ((marks_nT, tokens_nT), (first_nT, hidden_nT))
    )
    return inputs, noise.compacted(both_nW, keep_nW, lengths[1])
