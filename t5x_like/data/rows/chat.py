"""Rows of instructions and chats for decoder-only models: complete examples packed together, loss on the answers only."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from t5x_like.batches import Feature
from t5x_like.data.rows import packing
from t5x_like.data.rows.arrays import Arrays3, Batch
from t5x_like.data.rows.base import Rows, check_length
from t5x_like.data.stream import permute
from t5x_like.data.tokenizers import vocabularies

MASK = "targets_mask"


@dataclasses.dataclass(frozen=True)
class Truncation:
    """The part of every example that is kept: `kept_N` tokens, the first `context_N` of which precede the first answer.

    `cut_N` tokens of the context before that part, and `lost_N` tokens after it, are cut off.
    """

    context_N: np.ndarray
    kept_N: np.ndarray
    cut_N: np.ndarray
    lost_N: np.ndarray


def truncate(size_N: np.ndarray, context_N: np.ndarray, length: int) -> Truncation:
    """Cuts examples to `length`: first the beginning of the context; if that is not enough, the end of the answers."""
    excess_N = np.maximum(size_N - length, 0)
    cut_N = np.minimum(excess_N, context_N)
    lost_N = excess_N - cut_N
    return Truncation(context_N - cut_N, size_N - excess_N, cut_N, lost_N)


def keep_turns(size_N: np.ndarray, context_N: np.ndarray, ends_N: np.ndarray, length: int) -> Truncation:
    """Cuts examples longer than `length` after `ends_N` tokens; an end of 0 keeps nothing of them."""
    kept_N = np.where(size_N > length, ends_N, size_N)
    return Truncation(np.minimum(context_N, kept_N), kept_N, np.zeros_like(kept_N), size_N - kept_N)


@dataclasses.dataclass(frozen=True)
class PackedConversations(Rows):
    """Single turns (`inputs`, `targets`) or conversations (`targets`, `targets_mask`), several per row of `length` tokens.

    The loss is on the targets, or on the masked-in tokens of a conversation; `loss_on_inputs` puts it on all tokens.
    With `prefix`, the context before the first answer is read bidirectionally. A conversation rendered by its vocabulary's
    chat template begins with its own first token, which is never predicted; all others are read after `start_id`.

    An example longer than a row loses tokens: see `truncate`. With `whole_turns`, a conversation ends with the last answer that
    fits in the row instead, and one without such an answer is in no row.
    """

    length: int
    loss_on_inputs: bool = False
    prefix: bool = False
    packing_seed: int = 0
    whole_turns: bool = False

    def __post_init__(self) -> None:
        check_length("length", self.length)
        if self.prefix and self.loss_on_inputs:
            raise ValueError(
                "prefix=True and loss_on_inputs=True: tokens that are read bidirectionally cannot be predicted; "
                "set one to False"
            )

    @functools.cached_property
    def has_mask(self) -> bool:
        """Whether the examples are conversations with a mask.

        Raises:
          ValueError: the task has other features, or a mask is not as long as its targets.
        """
        names = self.cache.features
        if "targets" not in names or ("inputs" in names) == (MASK in names):
            raise ValueError(
                f"task {self.cache.task!r} has the features {names}; PackedConversations needs inputs and targets, or targets "
                f"and {MASK}; for documents without inputs use objectives/causal_lm.gin"
            )
        if MASK in names and not np.array_equal(self.cache.offsets("targets"), self.cache.offsets(MASK)):
            raise ValueError(
                f"task {self.cache.task!r}: {MASK} is not as long as targets in every example; cache the task again"
            )
        return MASK in names

    @property
    def chat_template(self) -> str | None:
        return (self.vocabulary.chat_template or "") if self.has_mask else None

    @property
    def task_features(self) -> tuple[str, ...]:
        return ("targets",) if self.has_mask else ("inputs", "targets")

    @property
    def read_features(self) -> tuple[str, ...]:
        return (*self.task_features, MASK) if self.has_mask else self.task_features

    @functools.cached_property
    def start_tokens(self) -> int:
        """Tokens at the beginning of an example that are never predicted."""
        return int(self.has_mask and self.vocabulary.chat_template is not None)

    @functools.cached_property
    def size_N(self) -> np.ndarray:
        """Tokens of every example that can be predicted."""
        size_N = sum(np.diff(self.cache.offsets(name)) for name in self.task_features)
        return np.maximum(size_N - self.start_tokens, 0)

    @functools.cached_property
    def context_N(self) -> np.ndarray:
        """Tokens of every example before the first one with a loss; all tokens if none has."""
        if not self.has_mask:
            return np.where(
                np.diff(self.cache.offsets("targets")) > 0, np.diff(self.cache.offsets("inputs")), self.size_N
            )
        answer_K = np.flatnonzero(self.cache.tokens(MASK))
        begin_N = self.cache.offsets(MASK)[:-1] + self.start_tokens
        first_N = np.append(answer_K, np.iinfo(np.int64).max)[np.searchsorted(answer_K, begin_N)]
        return np.minimum(first_N - begin_N, self.size_N)

    @functools.cached_property
    def truncation(self) -> Truncation:
        if self.whole_turns and self.has_mask:
            return keep_turns(self.size_N, self.context_N, self.last_end_N, self.length)
        return truncate(self.size_N, self.context_N, self.length)

    @property
    def last_end_N(self) -> np.ndarray:
        """Where the last answer ends that lies within the first `length` tokens of every conversation; 0 if there is none."""
        offsets, is_answer = self.cache.offsets(MASK), np.asarray(self.cache.tokens(MASK)) > 0
        goes_on = np.append(is_answer[1:], False)
        goes_on[offsets[1:] - 1] = False
        end_K = np.append(-1, np.flatnonzero(is_answer & ~goes_on) + 1)
        begin_N = offsets[:-1] + self.start_tokens
        last_N = end_K[np.searchsorted(end_K, begin_N + self.length, side="right") - 1]
        return np.maximum(last_N - begin_N, 0)

    @functools.cached_property
    def trainable_examples(self) -> np.ndarray:
        """The indices of the examples that have a token to predict.

        Raises:
          ValueError: no example has one.
        """
        kept_N = self.truncation.kept_N
        examples = np.flatnonzero(kept_N > (0 if self.loss_on_inputs else self.truncation.context_N))
        if not len(examples):
            too_long = (
                f"; {self.too_long:,} do not fit in length={self.length}: give a larger one" if self.too_long else ""
            )
            raise ValueError(
                f"no example of task {self.cache.task!r}, split {self.cache.split!r}, has a token to predict{too_long}"
            )
        return examples

    @property
    def too_long(self) -> int:
        """The number of conversations that are left out because no answer fits in a row."""
        return int((self.truncation.kept_N < np.minimum(self.size_N, 1)).sum())

    @property
    def dropped_examples(self) -> int:
        """The number of examples that have no token to predict and are in no row."""
        return len(self.size_N) - len(self.trainable_examples)

    @functools.cached_property
    def used_tokens(self) -> int:
        examples = self.trainable_examples
        return int(self.truncation.kept_N[examples].sum()) + self.start_tokens * len(examples)

    @functools.cached_property
    def truncated_tokens(self) -> dict[str, int]:
        cut, lost = (int(x_N[self.trainable_examples].sum()) for x_N in (self.truncation.cut_N, self.truncation.lost_N))
        return {"targets": cut + lost} if self.has_mask else {"inputs": cut, "targets": lost}

    @property
    def report(self) -> dict[str, int | float]:
        return super().report | {"dropped": self.dropped_examples, "too_long": self.too_long}

    @functools.cached_property
    def packing(self) -> packing.Packing:
        count = len(self.trainable_examples)
        order = self.trainable_examples[permute(np.arange(count), count, self.packing_seed, np.zeros(count, np.int64))]
        return packing.pack_first_fit(self.truncation.kept_N[:, None], (self.length,), order)

    def __len__(self) -> int:
        return len(self.packing)

    @property
    def lengths(self) -> Mapping[str, int]:
        return {"decoder": self.length}

    @property
    def extra_features(self) -> Mapping[str, Feature]:
        return {"decoder_prefix": Feature((self.length,), needed=True)} if self.prefix else {}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        example_K, row_K, nth_K = self.packing.pieces(index_n)
        shape = len(index_n), self.length
        context_K, kept_K, cut_K = (
            x[example_K] for x in (self.truncation.context_N, self.truncation.kept_N, self.truncation.cut_N)
        )

        def read(feature: str, begin_K: np.ndarray) -> Arrays3:
            begin_K = begin_K + self.cache.offsets(feature)[example_K]
            return packing.gather_pieces(self.cache.tokens(feature), begin_K, kept_K, (row_K, nth_K), shape)

        begin_K = cut_K + self.start_tokens if self.has_mask else -context_K
        tokens, positions, segments = read("targets", begin_K)
        real = segments > 0
        if self.prefix or not self.has_mask:
            before_n = np.searchsorted(row_K, np.arange(len(index_n)))
            context_nL = context_K.astype(np.int32)[before_n[:, None] + segments - real]
        if self.has_mask:
            answers = read(MASK, begin_K)[0] > 0
        else:
            tokens = np.where(positions < context_nL, read("inputs", cut_K)[0], tokens)
            answers = positions >= context_nL
        first_K = vocabularies.start_id(self.vocabulary)
        if self.start_tokens:
            first_K = self.cache.tokens("targets")[self.cache.offsets("targets")[example_K] + begin_K - 1]
        batch = {
            "decoder_input_tokens": shift_right(tokens, real & (positions == 0), real, first_K),
            "decoder_target_tokens": tokens,
            "decoder_positions": positions,
            "decoder_segment_ids": segments,
            "decoder_loss_weights": (real if self.loss_on_inputs else real & answers).astype(np.float32),
        }
        if self.prefix:
            # The last input of the context predicts the first answer.
            batch["decoder_prefix"] = (real & (positions <= context_nL)).astype(np.int32)
        return batch


def shift_right(
    tokens_nL: np.ndarray, begins_nL: np.ndarray, real_nL: np.ndarray, first_K: int | np.ndarray
) -> np.ndarray:
    """Tokens shifted right by one place; `first_K` are the first inputs of the segments, which begin at `begins_nL`."""
    shifted = np.zeros_like(tokens_nL)
    shifted[:, 1:] = tokens_nL[:, :-1]
    shifted *= real_nL
    shifted[begins_nL] = first_K
    return shifted
