"""What a row of a batch is: each class turns a token cache into rows, and `fetch` makes any of them at any time.

`rows.fetch(index_n, epoch_n, seed) -> {name: [n, L]}` gives rows `index_n` of epochs `epoch_n`, by the names of
`t5x_like.batches`; `len(rows)` are in an epoch. Randomness depends on (seed, epoch, row) alone.
"""

import dataclasses
import functools
from typing import ClassVar

import numpy as np

from t5x_like.data import noise, noise_words, packing, vocabularies
from t5x_like.data.arrays import Batch, ended, pieces, ragged, ragged_targets, segment_sizes
from t5x_like.data.stream import permuted
from t5x_like.data.token_cache import TokenCache


@dataclasses.dataclass(frozen=True)
class Rows:
    """What all kinds of rows share: the cache they are made from."""

    cache: TokenCache

    @property
    def caches(self) -> tuple[TokenCache, ...]:
        """All caches that rows are made from."""
        return (self.cache,)

    @property
    def vocabulary(self) -> vocabularies.Vocabulary:
        return self.cache.vocabulary

    @property
    def fingerprint(self) -> str:
        """Class, parameters and data: rows with the same one are the same."""
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "cache"}
        shown = ", ".join(f"{name}={value!r}" for name, value in options.items())
        source = f"{self.cache.task}/{self.cache.split}/{self.cache.manifest['fingerprint']}"
        return f"{type(self).__name__}({source}, {shown})"

    @property
    def features(self) -> tuple[str, ...]:
        """The features of the task that rows are made from."""
        return ("targets",)

    @property
    def used(self) -> int:
        """Tokens of the cache that the rows of an epoch are made from."""
        raise NotImplementedError

    @property
    def truncated(self) -> dict[str, int]:
        """Tokens cut off examples that are longer than a row, by feature."""
        return dict.fromkeys(self.features, 0)

    @property
    def left_out(self) -> int:
        """Tokens in no row, for what they belong to fills none."""
        return sum(len(self.cache.tokens(name)) for name in self.features) - self.used - sum(self.truncated.values())

    @functools.cached_property
    def fill(self) -> dict[str, float]:
        """Share of the positions of a row that are no padding, by side: of 256 rows spread over epoch 0."""
        index_n = np.unique(np.linspace(0, len(self) - 1, 256).astype(np.int64))
        batch = self.fetch(index_n, np.zeros_like(index_n), 0)
        return {side: float((batch[f"{side}_segment_ids"] > 0).mean()) for side in self.lengths}

    @property
    def report(self) -> dict[str, int | float]:
        """What becomes of the cache: tokens are those used, left out and truncated; see the properties of these names."""
        tokens = {
            "tokens": sum(len(self.cache.tokens(name)) for name in self.features),
            "used": self.used,
            "left_out": self.left_out,
        }
        cut = {f"truncated_{name}": count for name, count in self.truncated.items()}
        return {"rows": len(self), **tokens, **cut, **{f"fill_{side}": share for side, share in self.fill.items()}}


def check_length(name: str, length: int) -> None:
    if length < 2:
        raise ValueError(f"{name}={length} is too short for a row; use 2 or more")


@dataclasses.dataclass(frozen=True)
class Texts(Rows):
    """Rows made from texts of `text_length` tokens, cut from all documents joined; a tail shorter than that is left out."""

    @property
    def text_length(self) -> int:
        """Tokens of text per row, before noise."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.cache.tokens("targets")) // self.text_length

    @property
    def used(self) -> int:
        return len(self) * self.text_length


@dataclasses.dataclass(frozen=True)
class Joined(Texts):
    """Texts as long as the row."""

    length: int

    def __post_init__(self):
        check_length("length", self.length)

    @property
    def text_length(self) -> int:
        return self.length


@dataclasses.dataclass(frozen=True)
class CausalLM(Joined):
    """Documents joined and cut into rows of `length`; every token is a target."""

    @property
    def lengths(self) -> dict[str, int]:
        return {"decoder": self.length}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        start = vocabularies.start_id(self.vocabulary)
        inputs, targets, positions, segments = pieces(self.cache, self.length, index_n, start)
        return {
            "decoder_input_tokens": inputs,
            "decoder_target_tokens": targets,
            "decoder_positions": positions,
            "decoder_segment_ids": segments,
            "decoder_loss_weights": np.ones(targets.shape, np.float32),
        }


@dataclasses.dataclass(frozen=True)
class PrefixLM(CausalLM):
    """As CausalLM, but a random beginning of every segment is read bidirectionally and is no target."""

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        batch = super().fetch(index_n, epoch_n, seed)
        positions, segments = batch["decoder_positions"], batch["decoder_segment_ids"]
        most = int(segments.max(initial=0))
        size_nS = segment_sizes(segments)[:, 1 : most + 1]
        length_nS = 1 + noise.below(noise.bits(seed, epoch_n, index_n, most, purpose=1), size_nS).astype(np.int32)
        prefix_nL = length_nS.reshape(-1).take(segments + (np.arange(len(segments)) * most - 1)[:, None])
        # The input after the prefix's last one is the first that is not shown, so its target is the first that counts.
        batch["decoder_prefix"] = (positions < prefix_nL).astype(np.int32)
        batch["decoder_loss_weights"] = (positions >= prefix_nL - 1).astype(np.float32)
        return batch


@dataclasses.dataclass(frozen=True)
class SpanCorruption(Texts):
    """T5's objective on documents joined and cut so that the corrupted text fills both lengths."""

    inputs_length: int
    targets_length: int
    noise_density: float = 0.15
    mean_span_length: float = 3.0

    def __post_init__(self):
        check_length("inputs_length", self.inputs_length)
        check_length("targets_length", self.targets_length)
        if not 0 < self.noise_density < 1:
            raise ValueError(f"noise_density={self.noise_density} is not between 0 and 1; T5 uses 0.15")
        if self.mean_span_length < 1:
            raise ValueError(f"mean_span_length={self.mean_span_length} is less than one token; T5 uses 3")

    @functools.cached_property
    def text_length(self) -> int:
        """Tokens of text per row, before corruption."""
        return noise.text_length(self.inputs_length, self.targets_length, self.noise_density, self.mean_span_length)

    @property
    def lengths(self) -> dict[str, int]:
        return {"encoder": self.inputs_length, "decoder": self.targets_length}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        spans = noise.span_counts(self.text_length, self.noise_density, self.mean_span_length)[1]
        if spans > self.vocabulary.extra_ids:
            raise ValueError(
                f"{spans} noise spans a row need as many sentinels, the vocabulary has {self.vocabulary.extra_ids}; "
                "shorten inputs_length or raise mean_span_length"
            )
        length, lengths = self.text_length, (self.inputs_length, self.targets_length)
        cuts = noise.spans(
            noise.bits(seed, epoch_n, index_n, length, purpose=2), self.noise_density, self.mean_span_length
        )
        sentinel, eos = self.vocabulary.first_sentinel, vocabularies.end_id(self.vocabulary)
        inputs, targets = noise.corrupted(self.cache.tokens("targets"), index_n * length, *cuts, sentinel, lengths)
        counts = (
            np.full(len(index_n), real - 1)
            for real in noise.corrupted_lengths(length, self.noise_density, self.mean_span_length)
        )
        (inputs, read_n), (targets, made_n) = (
            ended(*side, eos) for side in zip((inputs, targets), counts, strict=True)
        )
        return ragged("encoder", inputs, read_n) | ragged_targets(
            targets, made_n, vocabularies.start_id(self.vocabulary)
        )


@dataclasses.dataclass(frozen=True)
class MaskedLM(Joined):
    """BERT's objective: a fresh 15% of the tokens in every epoch, masked 80/10/10."""

    mask_rate: float = 0.15
    word_start_V: ClassVar[np.ndarray | None] = None

    def __post_init__(self):
        super().__post_init__()
        if not 0 < self.mask_rate < 1:
            raise ValueError(f"mask_rate={self.mask_rate} is not between 0 and 1; BERT uses 0.15")

    @property
    def lengths(self) -> dict[str, int]:
        return {"encoder": self.length}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        _, tokens, positions, segments = pieces(self.cache, self.length, index_n, start=0)
        keys = seed, epoch_n, index_n
        inputs, chosen = noise_words.masked(self.vocabulary, tokens, segments, keys, self.mask_rate, self.word_start_V)
        return {
            "encoder_input_tokens": inputs,
            "encoder_target_tokens": tokens,
            "encoder_positions": positions,
            "encoder_segment_ids": segments,
            "encoder_token_types": np.zeros_like(tokens),
            "encoder_loss_weights": chosen.astype(np.float32),
        }


@dataclasses.dataclass(frozen=True)
class WholeWordMaskedLM(MaskedLM):
    """As MaskedLM, but all tokens of a word are chosen together, each then masked 80/10/10 for itself."""

    @functools.cached_property
    def word_start_V(self) -> np.ndarray:
        return noise_words.word_starts(self.vocabulary)


@dataclasses.dataclass(frozen=True)
class PackedExamples(Rows):
    """Inputs and targets of whole examples, several to a row; what is longer than a row is cut, and counted.

    The packing is the same in every epoch, the order of the rows is not. Tasks without `inputs` make decoder-only rows.
    """

    inputs_length: int
    targets_length: int
    packing_seed: int = 0

    def __post_init__(self):
        check_length("inputs_length", self.inputs_length)
        check_length("targets_length", self.targets_length)

    @property
    def capacity(self) -> dict[str, int]:
        """Row length by feature of the task."""
        return {
            name: length
            for name, length in (("inputs", self.inputs_length), ("targets", self.targets_length))
            if name in self.cache.features
        }

    @functools.cached_property
    def whole_lengths_NF(self) -> np.ndarray:
        """Tokens of every example, before cutting."""
        return np.stack([np.diff(self.cache.offsets(name)) for name in self.capacity], axis=1)

    @functools.cached_property
    def lengths_NF(self) -> np.ndarray:
        """Tokens of every example that are kept."""
        return np.minimum(self.whole_lengths_NF, list(self.capacity.values()))

    @property
    def features(self) -> tuple[str, ...]:
        return tuple(self.capacity)

    @functools.cached_property
    def used(self) -> int:
        return int(self.lengths_NF.sum())

    @functools.cached_property
    def fill(self) -> dict[str, float]:
        """Share of all positions of an epoch that are no padding, by side."""
        real = self.lengths_NF.sum(axis=0).tolist()
        return {
            side: count / (len(self) * length) for (side, length), count in zip(self.lengths.items(), real, strict=True)
        }

    @functools.cached_property
    def truncated(self) -> dict[str, int]:
        cut = (self.whole_lengths_NF - self.lengths_NF).sum(axis=0)
        return dict(zip(self.capacity, cut.tolist(), strict=True))

    @functools.cached_property
    def packing(self) -> packing.Packing:
        count = len(self.lengths_NF)
        order = permuted(np.arange(count), count, self.packing_seed, np.zeros(count, np.int64))
        return packing.first_fit(self.lengths_NF, tuple(self.capacity.values()), order)

    def __len__(self) -> int:
        return len(self.packing)

    @property
    def lengths(self) -> dict[str, int]:
        sides = {"inputs": "encoder", "targets": "decoder"}
        return {sides[name]: length for name, length in self.capacity.items()}

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> Batch:
        example_K, row_K, nth_K = self.packing.pieces(index_n)
        batch: Batch = {}
        for column, (feature, length) in enumerate(self.capacity.items()):
            tokens, positions, segments = packing.gathered(
                self.cache.tokens(feature),
                self.cache.offsets(feature)[example_K],
                self.lengths_NF[example_K, column],
                (row_K, nth_K),
                (len(index_n), length),
            )
            if feature == "inputs":
                batch |= {
                    "encoder_input_tokens": tokens,
                    "encoder_positions": positions,
                    "encoder_segment_ids": segments,
                }
                continue
            shifted = np.empty_like(tokens)
            shifted[:, 1:] = tokens[:, :-1]
            shifted *= positions > 0
            first_K = np.flatnonzero((positions == 0) & (segments > 0))
            shifted.reshape(-1)[first_K] = vocabularies.start_id(self.vocabulary)
            batch |= {
                "decoder_input_tokens": shifted,
                "decoder_target_tokens": tokens,
                "decoder_positions": positions,
                "decoder_segment_ids": segments,
                "decoder_loss_weights": (segments > 0).astype(np.float32),
            }
        return batch
