"""Rows of instructions and chats for decoder-only models: whole examples packed together, loss on the answers alone."""

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

from t5x_like.batches import Feature
from t5x_like.data.rows import packing
from t5x_like.data.rows.arrays import Batch
from t5x_like.data.rows.base import Rows, check_length
from t5x_like.data.stream import permuted
from t5x_like.data.tokenizers import vocabularies

MASK = "targets_mask"


@dataclasses.dataclass(frozen=True)
class Pieces:
    """What is kept of every example: `kept_N` tokens, of which the first `context_N` only lead to the first answer.

    `cut_N` tokens of the context before them, and `lost_N` tokens behind them, are cut off.
    """

    context_N: np.ndarray
    kept_N: np.ndarray
    cut_N: np.ndarray
    lost_N: np.ndarray


def fitted(size_N: np.ndarray, context_N: np.ndarray, length: int) -> Pieces:
    """Examples cut to `length`: of the context from its beginning, and where that is not enough, the end of the answers."""
    excess_N = np.maximum(size_N - length, 0)
    cut_N = np.minimum(excess_N, context_N)
    lost_N = excess_N - cut_N
    return Pieces(context_N - cut_N, size_N - excess_N, cut_N, lost_N)


@dataclasses.dataclass(frozen=True)
class PackedConversations(Rows):
    """Examples of one turn (`inputs`, `targets`) or conversations (`targets`, `targets_mask`), several to a row of `length`.

    The loss is on the targets, of a conversation on what its mask says; `loss_on_inputs` puts it on everything.
    With `prefix` what stands before the first answer is read bidirectionally. A conversation rendered by the chat template
    of its vocabulary begins with its own first token, which is read only; all others are read behind `start_id`.
    """

    length: int
    loss_on_inputs: bool = False
    prefix: bool = False
    packing_seed: int = 0

    def __post_init__(self):
        check_length("length", self.length)
        if self.prefix and self.loss_on_inputs:
            raise ValueError(
                "prefix=True and loss_on_inputs=True: tokens that are read bidirectionally cannot be predicted; leave one out"
            )

    @functools.cached_property
    def masked(self) -> bool:
        """Whether the examples are conversations with a mask.

        Raises:
          ValueError: a task of neither kind, or a mask that is not as long as its targets.
        """
        names = self.cache.features
        if "targets" not in names or ("inputs" in names) == (MASK in names):
            raise ValueError(
                f"task {self.cache.task!r} has the features {names}; PackedConversations needs inputs and targets, or targets "
                f"and {MASK}; documents without inputs are rows.CausalLM's"
            )
        if MASK in names and not np.array_equal(self.cache.offsets("targets"), self.cache.offsets(MASK)):
            raise ValueError(
                f"task {self.cache.task!r}: {MASK} is not as long as targets in every example; cache it again"
            )
        return MASK in names

    @property
    def features(self) -> tuple[str, ...]:
        return ("targets",) if self.masked else ("inputs", "targets")

    @functools.cached_property
    def read_only(self) -> int:
        """Tokens that an example begins with and that are never predicted."""
        return int(self.masked and self.vocabulary.chat_template is not None)

    @functools.cached_property
    def size_N(self) -> np.ndarray:
        """Tokens of every example that could be predicted."""
        size_N = sum(np.diff(self.cache.offsets(name)) for name in self.features)
        return np.maximum(size_N - self.read_only, 0)

    @functools.cached_property
    def context_N(self) -> np.ndarray:
        """Tokens of every example before the first that counts; all of them where none does."""
        if not self.masked:
            return np.where(
                np.diff(self.cache.offsets("targets")) > 0, np.diff(self.cache.offsets("inputs")), self.size_N
            )
        counting_K = np.flatnonzero(self.cache.tokens(MASK))
        begin_N = self.cache.offsets(MASK)[:-1] + self.read_only
        first_N = np.append(counting_K, np.iinfo(np.int64).max)[np.searchsorted(counting_K, begin_N)]
        return np.minimum(first_N - begin_N, self.size_N)

    @functools.cached_property
    def pieces(self) -> Pieces:
        return fitted(self.size_N, self.context_N, self.length)

    @functools.cached_property
    def learnt(self) -> np.ndarray:
        """The examples that have something to learn, by their places in the cache.

        Raises:
          ValueError: none has.
        """
        found = np.flatnonzero(self.size_N > (0 if self.loss_on_inputs else self.context_N))
        if not len(found):
            raise ValueError(
                f"no example of task {self.cache.task!r}, split {self.cache.split!r}, has a token to predict"
            )
        return found

    @property
    def dropped(self) -> int:
        """Examples without anything to learn, which are in no row."""
        return len(self.size_N) - len(self.learnt)

    @functools.cached_property
    def used(self) -> int:
        return int(self.pieces.kept_N[self.learnt].sum()) + self.read_only * len(self.learnt)

    @functools.cached_property
    def truncated(self) -> dict[str, int]:
        cut, lost = (int(x_N[self.learnt].sum()) for x_N in (self.pieces.cut_N, self.pieces.lost_N))
        return {"targets": cut + lost} if self.masked else {"inputs": cut, "targets": lost}

    @property
    def report(self) -> dict[str, int | float]:
        return super().report | {"dropped": self.dropped}

    @functools.cached_property
    def packing(self) -> packing.Packing:
        count = len(self.learnt)
        order = self.learnt[permuted(np.arange(count), count, self.packing_seed, np.zeros(count, np.int64))]
        return packing.first_fit(self.pieces.kept_N[:, None], (self.length,), order)

    def __len__(self) -> int:
        return len(self.packing)

    @property
    def lengths(self) -> dict[str, int]:
        return {"decoder": self.length}

    @property
    def extra_features(self) -> Mapping[str, Feature]:
        return {"decoder_prefix": Feature((self.length,))} if self.prefix else {}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        example_K, row_K, nth_K = self.packing.pieces(index_n)
        shape = len(index_n), self.length
        context_K, kept_K, cut_K = (
            x[example_K] for x in (self.pieces.context_N, self.pieces.kept_N, self.pieces.cut_N)
        )

        def read(feature: str, begin_K: np.ndarray):
            begin_K = begin_K + self.cache.offsets(feature)[example_K]
            return packing.gathered(self.cache.tokens(feature), begin_K, kept_K, (row_K, nth_K), shape)

        begin_K = cut_K + self.read_only if self.masked else -context_K
        tokens, positions, segments = read("targets", begin_K)
        real = segments > 0
        if self.prefix or not self.masked:
            before_n = np.searchsorted(row_K, np.arange(len(index_n)))
            context_nL = context_K.astype(np.int32)[before_n[:, None] + segments - real]
        if self.masked:
            counts = read(MASK, begin_K)[0] > 0
        else:
            tokens = np.where(positions < context_nL, read("inputs", cut_K)[0], tokens)
            counts = positions >= context_nL
        first_K = vocabularies.start_id(self.vocabulary)
        if self.read_only:
            first_K = self.cache.tokens("targets")[self.cache.offsets("targets")[example_K] + begin_K - 1]
        batch = {
            "decoder_input_tokens": after_first(tokens, real & (positions == 0), real, first_K),
            "decoder_target_tokens": tokens,
            "decoder_positions": positions,
            "decoder_segment_ids": segments,
            "decoder_loss_weights": (real if self.loss_on_inputs else real & counts).astype(np.float32),
        }
        if self.prefix:
            # The last input of the context predicts the first answer.
            batch["decoder_prefix"] = (real & (positions <= context_nL)).astype(np.int32)
        return batch


def after_first(tokens_nL: np.ndarray, begins_nL: np.ndarray, real_nL: np.ndarray, first_K) -> np.ndarray:
    """Tokens moved right by one place, each segment behind its own first one."""
    shifted = np.zeros_like(tokens_nL)
    shifted[:, 1:] = tokens_nL[:, :-1]
    shifted *= real_nL
    shifted[begins_nL] = first_K
    return shifted
