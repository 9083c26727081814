"""Random choices that make training examples of text, vectorised over rows and keyed by (seed, epoch, row).

Each row's randomness is a hash of its key and a counter, so it does not depend on which rows are made together; another
epoch draws anew, and a rerun repeats.
"""

import numpy as np

from t5x_like.data.stream import mixed


def uniform(seed: int, epoch_n: np.ndarray, index_n: np.ndarray, width: int, purpose: int) -> np.ndarray:
    """float32 in [0, 1), [n, width]; `purpose` separates the draws of one row."""
    with np.errstate(over="ignore"):
        key_n = mixed(np.uint64((seed * 1_000_003 + purpose) % 2**64) * np.uint64(0x9E3779B97F4A7C15))
        key_n = mixed(key_n + epoch_n.astype(np.uint64))
        key_n = mixed(key_n + index_n.astype(np.uint64))
        bits = mixed(key_n[:, None] + np.arange(width, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def span_lengths(uniform_nI: np.ndarray, items: int, spans: int) -> np.ndarray:
    """`items` split into `spans` lengths of at least 1, every split equally likely; uniform_nI is [n, items - 1]."""
    rows = uniform_nI.shape[0]
    cuts = np.argpartition(uniform_nI, spans - 2, axis=1)[:, : spans - 1] if spans > 1 else np.zeros((rows, 0), int)
    edges = np.concatenate([np.zeros((rows, 1), int), np.sort(cuts, axis=1) + 1, np.full((rows, 1), items)], axis=1)
    return np.diff(edges, axis=1)


def span_counts(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """(noise tokens, noise spans) of a text of `length` tokens, as in T5."""
    noise = min(max(round(length * density), 1), length - 1)
    spans = max(round(noise / mean_span), 1)
    return noise, min(spans, length - noise)


def corrupted_lengths(length: int, density: float, mean_span: float) -> tuple[int, int]:
    """(input, target) lengths after corruption, with one sentinel a span and the end of sequence on both sides."""
    noise, spans = span_counts(length, density, mean_span)
    return length - noise + spans + 1, noise + spans + 1


def text_length(inputs_length: int, targets_length: int, density: float, mean_span: float) -> int:
    """The longest text whose corruption fits both lengths (T5's `random_spans_helper`)."""
    length = 1
    while all(
        made <= room
        for made, room in zip(
            corrupted_lengths(length + 1, density, mean_span), (inputs_length, targets_length), strict=True
        )
    ):
        length += 1
    if length < 2:
        raise ValueError(
            f"inputs_length={inputs_length} and targets_length={targets_length} leave no room for a corrupted text; "
            "raise the smaller one"
        )
    return length


def span_numbers(uniform_nT, density: float, mean_span: float) -> np.ndarray:
    """Texts cut into spans by turns: 0, 2, 4, ... is text that stays, 1, 3, 5, ... is noise."""
    rows, length = uniform_nT.shape
    noise, spans = span_counts(length, density, mean_span)
    kept = length - noise
    kept_nS = span_lengths(uniform_nT[:, : kept - 1], kept, spans)
    noise_nS = span_lengths(uniform_nT[:, kept - 1 : length - 2], noise, spans)
    starts_nS = np.cumsum(np.stack([kept_nS, noise_nS], axis=2).reshape(rows, -1), axis=1)[:, :-1]
    switches = np.zeros((rows, length), np.int32)
    np.put_along_axis(switches, starts_nS, 1, axis=1)
    return np.cumsum(switches, axis=1)


def corrupt_spans(tokens_nT, uniform_nT, density: float, mean_span: float, sentinel: int, eos: int):
    """T5's span corruption (Raffel et al. 2020): (inputs, targets), each [n, same length for every row].

    Every noise span becomes one sentinel in the inputs; the targets are sentinel, span, sentinel, span, ... Sentinels
    count down from `sentinel`.
    """
    rows, length = tokens_nT.shape
    span_nT = span_numbers(uniform_nT, density, mean_span)
    is_noise = span_nT % 2 == 1
    first = np.ones((rows, length), bool)
    first[:, 1:] = span_nT[:, 1:] != span_nT[:, :-1]
    marks_nT = sentinel - span_nT // 2
    end = np.full((rows, 1), eos, tokens_nT.dtype)

    def joined(hidden):
        # A hidden span leaves its sentinel behind, what is not hidden stays.
        shown = np.where(hidden, marks_nT, tokens_nT)[~hidden | first].reshape(rows, -1)
        return np.concatenate([shown, end], axis=1)

    return joined(is_noise), joined(~is_noise)


def compacted(values_nW, keep_nW, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(the kept values of every row moved to its left and padded with 0 to `length`, how many they are).

    Raises:
      ValueError: more of them than `length`.
    """
    count_n = keep_nW.sum(axis=1)
    if (longest := count_n.max(initial=0)) > length:
        raise ValueError(f"a row has {longest} tokens after noising, its length is {length}; raise the length")
    result = np.zeros((len(values_nW), length), np.int32)
    result[np.arange(length) < count_n[:, None]] = values_nW[keep_nW]
    return result, count_n


def mask_tokens(tokens_nL, choose_nL, what_nL, which_nL, rate: float, mask_id: int, text_ids):
    """BERT's masking: (inputs, chosen); of the chosen tokens 80% become the mask, 10% a random one of `text_ids`, 10% stay."""
    is_text_V = np.zeros(1 + max(tokens_nL.max(initial=0), text_ids[-1]), bool)
    is_text_V[text_ids] = True
    chosen = (choose_nL < rate) & is_text_V[tokens_nL]
    random = text_ids.astype(tokens_nL.dtype)[(which_nL * len(text_ids)).astype(np.int32)]
    replaced = np.where(what_nL < 0.8, mask_id, np.where(what_nL < 0.9, random, tokens_nL))
    return np.where(chosen, replaced, tokens_nL).astype(np.int32), chosen
