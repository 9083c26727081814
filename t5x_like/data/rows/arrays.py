"""Tokens, positions and segment ids of rows, as the arrays of a batch."""

import numpy as np

from t5x_like.data.cache.token_cache import TokenCache

Batch = dict[str, np.ndarray]
Arrays3 = tuple[np.ndarray, np.ndarray, np.ndarray]
Arrays4 = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def cut_documents(cache: TokenCache, length: int, index_n: np.ndarray, start: int) -> Arrays4:
    """Rows of `length` consecutive tokens of all documents joined: (inputs, targets, positions, segments), int32 [n, L].

    Inputs are the targets shifted right. The first input of a document is `start`; that of a row that begins inside a
    document is the preceding token. Positions and segments restart at every document.
    """
    flat, offsets = cache.tokens("targets"), cache.offsets("targets")
    count = len(flat) // length
    targets = flat[: count * length].reshape(count, length)[index_n].astype(np.int32)
    inputs = np.empty_like(targets)
    inputs[:, 1:] = targets[:, :-1]
    begin_n = index_n * length
    inputs[:, 0] = np.where(begin_n > 0, flat[np.maximum(begin_n - 1, 0)], start)
    first_n, last_n = np.searchsorted(offsets, begin_n), np.searchsorted(offsets, begin_n + length)
    count_n = last_n - first_n
    row_K = np.repeat(np.arange(len(index_n)), count_n)
    within_K = np.arange(len(row_K)) - (np.cumsum(count_n) - count_n)[row_K]
    column_K = offsets[first_n[row_K] + within_K] - begin_n[row_K]
    inputs[row_K, column_K] = start
    # An empty document begins where the next one does. A row's start always begins a segment.
    starts_K = np.unique((row_K * length + column_K)[column_K > 0])
    return inputs, targets, *number_segments(starts_K, (len(targets), length))


def number_segments(later_K: np.ndarray, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """(positions, segments) [n, L] of full rows. Segments begin at the flat indices `later_K` and at each row's start."""
    rows, length = shape
    before_n = np.searchsorted(later_K, np.arange(rows) * length)
    starts_K = np.insert(later_K, before_n, np.arange(rows) * length)
    number_K = np.arange(len(starts_K)) - (before_n + np.arange(rows))[starts_K // length] + 1
    positions, segments = expand_pieces(starts_K, number_K, rows * length)
    return positions.reshape(shape), segments.reshape(shape)


def expand_pieces(starts_K: np.ndarray, number_K: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """(distance from the start of its piece, number of its piece) of each of `size` places, int32; pieces are adjacent."""
    length_K = np.diff(starts_K, append=size)
    distance = np.arange(size, dtype=np.int32)
    distance -= np.repeat(starts_K.astype(np.int32), length_K)
    return distance, np.repeat(number_K.astype(np.int32), length_K)


def cut_texts(cache: TokenCache, length: int, index_n: np.ndarray) -> np.ndarray:
    """Rows of `length` consecutive tokens of all documents joined, int32 [n, L]."""
    flat = cache.tokens("targets")
    count = len(flat) // length
    return flat[: count * length].reshape(count, length)[index_n].astype(np.int32)


def segment_sizes(segments_nL: np.ndarray) -> np.ndarray:
    """Tokens of each segment of a row, [n, L + 1] by segment number; number 0 is padding."""
    rows, width = segments_nL.shape[0], segments_nL.shape[1] + 1
    numbers = segments_nL + (np.arange(rows) * width)[:, None]
    return np.bincount(numbers.reshape(-1), minlength=rows * width).reshape(rows, width)


def append_eos(tokens_nL: np.ndarray, count_n: np.ndarray, eos: int) -> tuple[np.ndarray, np.ndarray]:
    """(rows with `eos` after their last token, their new counts); writes into `tokens_nL`."""
    tokens_nL[np.arange(len(tokens_nL)), count_n] = eos
    return tokens_nL, count_n + 1


def build_inputs(side: str, tokens_nL: np.ndarray, count_n: np.ndarray) -> Batch:
    """Input tokens, positions and segment ids of rows with one segment of `count_n` tokens; padding is 0."""
    real = np.arange(tokens_nL.shape[1]) < count_n[:, None]
    return {
        f"{side}_input_tokens": tokens_nL,
        f"{side}_positions": np.arange(tokens_nL.shape[1], dtype=np.int32) * real,
        f"{side}_segment_ids": real.astype(np.int32),
    }


def build_decoder(tokens_nL: np.ndarray, count_n: np.ndarray, start: int) -> Batch:
    """Decoder arrays of rows whose targets are one segment of `count_n` tokens; the first input is `start`."""
    shifted = np.zeros_like(tokens_nL)
    shifted[:, 0] = start
    shifted[:, 1:] = tokens_nL[:, :-1]
    batch = build_inputs("decoder", shifted, count_n)
    batch["decoder_input_tokens"] *= batch["decoder_segment_ids"]
    batch["decoder_target_tokens"] = tokens_nL
    batch["decoder_loss_weights"] = batch["decoder_segment_ids"].astype(np.float32)
    return batch
