"""Tokens, positions and segments of rows, as the arrays of a batch."""

import numpy as np

from t5x_like.data.token_cache import TokenCache

Batch = dict[str, np.ndarray]


def pieces(cache: TokenCache, length: int, index_n: np.ndarray, start: int):
    """Rows of `length` consecutive tokens of all documents joined: (inputs, targets, positions, segments), int32 [n, L].

    Inputs are the targets shifted right; the first input of a document is `start`, that of a row that begins
    inside a document is the token before it. Positions and segments begin anew at every document.
    """
    flat, offsets = cache.tokens("targets"), cache.offsets("targets")
    count = len(flat) // length
    targets = flat[: count * length].reshape(count, length)[index_n].astype(np.int32)
    inputs = np.empty_like(targets)
    inputs[:, 1:] = targets[:, :-1]
    begin_n = index_n * length
    inputs[:, 0] = np.where(begin_n > 0, flat[np.maximum(begin_n - 1, 0)], start)
    positions = np.empty_like(targets)
    positions[:] = np.arange(length, dtype=np.int32)
    segments = np.ones_like(targets)

    first_n, last_n = np.searchsorted(offsets, begin_n), np.searchsorted(offsets, begin_n + length)
    count_n = last_n - first_n
    if not count_n.any():
        return inputs, targets, positions, segments
    row_K = np.repeat(np.arange(len(index_n)), count_n)
    within_K = np.arange(len(row_K)) - np.repeat(np.cumsum(count_n) - count_n, count_n)
    column_K = offsets[first_n[row_K] + within_K] - begin_n[row_K]
    inputs[row_K, column_K] = start
    # Only rows where a document begins after the first token hold more than one segment.
    split = np.unique(row_K[column_K > 0])
    starts = np.zeros((len(index_n), length), np.int32)
    starts[row_K, column_K] = column_K
    positions[split] -= np.maximum.accumulate(starts[split], axis=1)
    segments[split] += np.cumsum(starts[split] > 0, axis=1, dtype=np.int32)
    return inputs, targets, positions, segments


def texts(cache: TokenCache, length: int, index_n: np.ndarray) -> np.ndarray:
    """Rows of `length` consecutive tokens of all documents joined, int32 [n, L]."""
    flat = cache.tokens("targets")
    count = len(flat) // length
    return flat[: count * length].reshape(count, length)[index_n].astype(np.int32)


def segment_sizes(segments_nL: np.ndarray) -> np.ndarray:
    """Tokens of each segment of a row, [n, L + 1] by segment; 0 are the padding's."""
    rows, width = segments_nL.shape[0], segments_nL.shape[1] + 1
    numbers = segments_nL + (np.arange(rows) * width)[:, None]
    return np.bincount(numbers.reshape(-1), minlength=rows * width).reshape(rows, width)


def ended(tokens_nL, count_n, eos: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows with `eos` behind their last token."""
    tokens_nL[np.arange(len(tokens_nL)), count_n] = eos
    return tokens_nL, count_n + 1


def ragged(side: str, tokens_nL: np.ndarray, count_n: np.ndarray) -> Batch:
    """Input tokens, positions and segments of rows that hold one segment of `count_n` tokens, padding being 0."""
    real = np.arange(tokens_nL.shape[1]) < count_n[:, None]
    return {
        f"{side}_input_tokens": tokens_nL,
        f"{side}_positions": np.arange(tokens_nL.shape[1], dtype=np.int32) * real,
        f"{side}_segment_ids": real.astype(np.int32),
    }


def ragged_targets(tokens_nL: np.ndarray, count_n: np.ndarray, start: int) -> Batch:
    """Decoder arrays of rows whose targets are one segment; the first input is `start`."""
    shifted = np.zeros_like(tokens_nL)
    shifted[:, 0] = start
    shifted[:, 1:] = tokens_nL[:, :-1]
    batch = ragged("decoder", shifted, count_n)
    batch["decoder_input_tokens"] *= batch["decoder_segment_ids"]
    batch["decoder_target_tokens"] = tokens_nL
    batch["decoder_loss_weights"] = batch["decoder_segment_ids"].astype(np.float32)
    return batch
