"""Random choices that turn text into training examples, vectorised over rows and keyed by (seed, epoch, row).

Each row's randomness is a hash of its key and a counter, so it does not depend on which rows are made together. Another
epoch gives other numbers; a rerun gives the same.
"""

import numpy as np

from t5x_like.data.stream import hash64

GOLDEN, FIRST, SECOND = map(np.uint32, (0x9E3779B9, 0x7FEB352D, 0x846CA68B))


def random_bits(seed: int, epoch_n: np.ndarray, index_n: np.ndarray, width: int, purpose: int) -> np.ndarray:
    """Random uint32 [n, width]: of each row, its key's permutation of 0, 1, 2, ...; `purpose` separates draws of one row."""
    with np.errstate(over="ignore"):
        key = hash64(np.uint64((seed * 1_000_003 + purpose) % 2**64) * np.uint64(0x9E3779B97F4A7C15))
        key_n = hash64(key + epoch_n.astype(np.uint64))
        key_n = hash64(key_n + index_n.astype(np.uint64))[:, None]
    x = np.arange(width, dtype=np.uint32) * GOLDEN + key_n.astype(np.uint32)
    # An integer hash with low bias. The key's other half enters in the middle, so that no two rows share a sequence.
    shifted = np.right_shift(x, 16)
    x ^= shifted
    x *= FIRST
    x += (key_n >> np.uint64(32)).astype(np.uint32)
    for shift, factor in ((15, SECOND), (16, FIRST)):
        x ^= np.right_shift(x, shift, out=shifted)
        x *= factor
    x ^= np.right_shift(x, 15, out=shifted)
    return x


def uniform(seed: int, epoch_n: np.ndarray, index_n: np.ndarray, width: int, purpose: int) -> np.ndarray:
    """float32 in [0, 1), [n, width], of the same keys as `random_bits`."""
    return (random_bits(seed, epoch_n, index_n, width, purpose) >> 8).astype(np.float32) * np.float32(2.0**-24)


def integers_below(bits_n: np.ndarray, limit: int | np.ndarray) -> np.ndarray:
    """Integers 0 .. limit - 1 from random bits, int64."""
    return (bits_n.astype(np.uint64) * np.asarray(limit, np.uint64) >> np.uint64(32)).astype(np.int64)


def distinct_keys(bits_nW: np.ndarray) -> np.ndarray:
    """Random numbers that differ within every row: the low bits are the column. Sorting them is much faster than argsort."""
    width = bits_nW.shape[1]
    low = np.uint32(2 ** (width - 1).bit_length() - 1)
    return (bits_nW & ~low) | np.arange(width, dtype=np.uint32)


def choose_places(bits_nW: np.ndarray, count: int) -> np.ndarray:
    """`count` columns of every row in increasing order, int64 [n, count], all choices equally likely."""
    rows, width = bits_nW.shape
    if count == 0:
        return np.zeros((rows, 0), np.int64)
    keys_nW = distinct_keys(bits_nW)
    chosen = keys_nW <= np.partition(keys_nW, count - 1, axis=1)[:, count - 1 : count]
    return np.flatnonzero(chosen).reshape(rows, count) - np.arange(rows)[:, None] * width


def draw_span_lengths(bits_nI: np.ndarray, items: int, spans: int) -> np.ndarray:
    """Splits `items` into `spans` lengths of at least 1, every split equally likely; bits_nI are [n, items - 1]."""
    edges = np.empty((len(bits_nI), spans + 1), np.int64)
    edges[:, 0], edges[:, -1] = 0, items
    edges[:, 1:-1] = choose_places(bits_nI, spans - 1) + 1
    return np.diff(edges, axis=1)


def span_counts(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """(noise tokens, noise spans) of a text of `length` tokens, as in T5."""
    noise = min(max(round(length * density), 1), length - 1)
    spans = max(round(noise / mean_span), 1)
    return noise, min(spans, length - noise)


def corrupted_lengths(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """(input, target) lengths after corruption, with one sentinel per span and an eos on both sides."""
    noise, spans = span_counts(length, density, mean_span)
    return length - noise + spans + 1, noise + spans + 1


def text_length(inputs_length: int, targets_length: int, density: float, mean_span: float) -> int:
    """The length of the longest text whose corruption fits both lengths (T5's `random_spans_helper`).

    Raises:
      ValueError: not even a text of 2 tokens fits.
    """

    def fits(length: int) -> bool:
        inputs, targets = corrupted_lengths(length, density, mean_span)
        return inputs <= inputs_length and targets <= targets_length

    length = 1
    while fits(length + 1):
        length += 1
    if length < 2:
        raise ValueError(
            f"inputs_length={inputs_length} and targets_length={targets_length} leave no room for a corrupted text; "
            "raise the smaller one"
        )
    return length


def draw_spans(bits_nT: np.ndarray, density: float, mean_span: float) -> tuple[np.ndarray, np.ndarray]:
    """(kept, noise): lengths [n, S] of the alternating spans that texts of T tokens are split into, kept ones first."""
    length = bits_nT.shape[1]
    noise, count = span_counts(length, density, mean_span)
    kept = length - noise
    return draw_span_lengths(bits_nT[:, : kept - 1], kept, count), draw_span_lengths(
        bits_nT[:, kept - 1 : length - 2], noise, count
    )


def corrupt(
    flat: np.ndarray,
    begin_n: np.ndarray,
    kept_nS: np.ndarray,
    noise_nS: np.ndarray,
    sentinel: int,
    lengths: tuple[int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """T5's span corruption (Raffel et al. 2020) of texts that begin at `begin_n` of the tokens `flat`: (inputs, targets) [n, L].

    Every noise span becomes one sentinel in the inputs; the targets are sentinel, span, sentinel, span, ... Sentinels
    count down from `sentinel`. Rows are padded with 0 to `lengths`, which must be long enough.
    """
    marks_nS = np.cumsum(kept_nS + 1, axis=1) - 1
    inputs = _gather_with_skips(
        flat, begin_n, marks_nS[:, :-1] + 1, noise_nS[:, :-1] - 1, marks_nS[:, -1] + 1, lengths[0]
    )
    starts_nS = np.cumsum(noise_nS + 1, axis=1)
    count_n = starts_nS[:, -1].copy()
    starts_nS -= noise_nS + 1
    targets = _gather_with_skips(flat, begin_n, starts_nS, kept_nS - 1, count_n, lengths[1])
    for side, places_nS in ((inputs, marks_nS), (targets, starts_nS)):
        np.put_along_axis(side, places_nS, sentinel - np.arange(places_nS.shape[1], dtype=np.int32)[None], axis=1)
    return inputs, targets


def _gather_with_skips(
    flat: np.ndarray, begin_n: np.ndarray, at_nS: np.ndarray, skip_nS: np.ndarray, count_n: np.ndarray, length: int
) -> np.ndarray:
    """`count_n` tokens from `begin_n` on, skipping `skip_nS` of them before column `at_nS` of the result; then 0."""
    source = np.ones((len(begin_n), length), np.int64)
    source[:, 0] = begin_n
    source.reshape(-1)[(at_nS + np.arange(len(begin_n))[:, None] * length).reshape(-1)] += skip_nS.reshape(-1)
    np.cumsum(source, axis=1, out=source)
    result = flat.take(source, mode="clip").astype(np.int32)
    result *= np.arange(length) < count_n[:, None]
    return result


def compact(values_nW: np.ndarray, keep_nW: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(the kept values of every row moved to its left and padded with 0 to `length`, their number).

    Raises:
      ValueError: a row keeps more than `length` values.
    """
    count_n = keep_nW.sum(axis=1)
    if (longest := count_n.max(initial=0)) > length:
        raise ValueError(f"a row has {longest} tokens after noising, its length is {length}; raise the length")
    result = np.zeros((len(values_nW), length), np.int32)
    result[np.arange(length) < count_n[:, None]] = values_nW[keep_nW]
    return result, count_n


def mask_tokens(
    tokens_nL: np.ndarray, chosen_nL: np.ndarray, bits_nL: np.ndarray, mask_id: int, text_ids: np.ndarray
) -> np.ndarray:
    """BERT's masking: 80% of the chosen tokens become the mask, 10% a random one of `text_ids`, 10% stay unchanged."""
    inputs, place_K = tokens_nL.copy(), np.flatnonzero(chosen_nL)
    tenths_K = bits_nL.reshape(-1)[place_K].astype(np.uint64) * np.uint64(10)
    which_K = integers_below(tenths_K & np.uint64(2**32 - 1), len(text_ids))
    tenth_K = tenths_K >> np.uint64(32)
    new_K = np.where(tenth_K < 8, mask_id, np.where(tenth_K < 9, text_ids[which_K], inputs.reshape(-1)[place_K]))
    inputs.reshape(-1)[place_K] = new_K
    return inputs
