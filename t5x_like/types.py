"""Protocols of the parts: the methods and attributes that models, objectives, rows and others provide.

A class satisfies a protocol by having its members; nothing inherits from it. Letters in shapes are those of `models/__init__.py`.
Importing this module loads neither JAX nor NumPy, so the data pipeline and the text side may use it too.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import jax
    import numpy as np

PathLike = str | os.PathLike[str]
Params = Any  # a tree of arrays: the model's parameters, or a part of them
Metrics = Mapping[str, Any]  # name -> (total, count), two arrays of one shape; merged by adding both


class Model(Protocol):
    """A Flax module that maps a batch to logits.

    Attributes:
      encoder_decoder: whether an encoder reads `encoder_*` features and a decoder generates `decoder_*`.
      vocab_size: the number of rows of the embedding table; token ids are smaller.
      sides: the sides whose common features it reads, "encoder" or "decoder" or both; the last one is predicted.
      extra_features: the other features of a batch that it reads if they are there.
      outputs: what objectives may ask for: "tokens" (logits over the vocabulary), "classes" (of rows), "replaced" (tokens).
    """

    @property
    def encoder_decoder(self) -> bool: ...

    @property
    def vocab_size(self) -> int: ...

    @property
    def sides(self) -> tuple[str, ...]: ...

    @property
    def extra_features(self) -> tuple[str, ...]: ...

    @property
    def outputs(self) -> tuple[str, ...]: ...

    def init(self, rngs: Any, batch: Any, *args: Any, **kwargs: Any) -> Any:
        """Returns variables; `["params"]` holds the parameters, boxed with logical axis names."""
        ...

    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        """`apply({"params": params}, batch, train)` returns float32 logits [B, L, V].

        `method="hidden"` returns the input of the head, x [B, L, D]; `method="logits"` applies the head to x. With
        `decode_length` and `mutable=["cache"]` the call decodes with a cache of that many tokens per row.
        """
        ...


class Apply(Protocol):
    """`model.apply`."""

    def __call__(self, variables: Any, *args: Any, **kwargs: Any) -> Any: ...


class Objective(Protocol):
    """A loss as a sum and a weight, so that it does not depend on how a batch is split.

    Returns (total, weight, metrics): float32 scalars, and {name: (total, count)}. The loss of a batch is total / weight after
    both are summed over microbatches and devices. `rng` is None in evaluation.

    An objective that needs parameter trees besides the model's (a reference model, a teacher) has a field `references`,
    {name: tree}, and takes them as the keyword argument `references`: the train step passes them as arguments of the
    compiled program, so none of them becomes a constant in it.

    An objective may declare what it reads, to be checked before anything is compiled (`training.contract`): `side`, the side
    of its targets; `needs`, the outputs of the model; and `labels`, its features of a batch besides the common ones.
    """

    def __call__(
        self, apply: Apply, params: Params, batch: Mapping[str, jax.Array], rng: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array, Metrics]: ...


class Vocabulary(Protocol):
    """A tokenizer: text to ids and back. A special id is None where the vocabulary has no such token.

    Attributes:
      vocab_size: ids are 0 .. vocab_size - 1.
      bos: the id a decoder reads before the first token; `add_bos` tells whether a prompt begins with it.
      stop_ids: ids that end generation; `eos` is the first of them.
      first_sentinel: sentinel i is `first_sentinel - i`, for i < `extra_ids`.
      control_ids: {name: id} of the tokens that `encode` reads from a text: ends of sequences and turns, sentinels, ...
      token_bytes: bytes of text that each id stands for; none for special ids. A token may be a part of a character.
      bytes_per_token_V: UTF-8 bytes of text that each id stands for, int32 [V]; 0 for special ids.
      fingerprint: equal for vocabularies that give equal ids.
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def pad(self) -> int | None: ...
    @property
    def eos(self) -> int | None: ...
    @property
    def unk(self) -> int | None: ...
    @property
    def bos(self) -> int | None: ...
    @property
    def add_bos(self) -> bool: ...
    @property
    def stop_ids(self) -> tuple[int, ...]: ...
    @property
    def extra_ids(self) -> int: ...
    @property
    def first_sentinel(self) -> int: ...
    @property
    def mask(self) -> int | None: ...
    @property
    def chat_template(self) -> str | None: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def control_ids(self) -> Mapping[str, int]: ...
    @property
    def token_bytes(self) -> Sequence[bytes]: ...
    @property
    def bytes_per_token_V(self) -> np.ndarray: ...

    def encode(self, text: str, literal: bool = False, mark: str = "") -> list[int]:
        """The ids of the text alone.

        Control tokens in the text are read as their ids. With `literal`, their names are encoded as any other text; so is, in
        a text that is not literal, a name that contains `mark`. All marks are removed before text is encoded.
        """
        ...

    def encode_special(self, text: str) -> list[int]:
        """The ids an encoder reads: `encode`, with the special tokens that begin and end a text."""
        ...

    def decode(self, ids: Any) -> str:
        """The text up to the first stop id."""
        ...

    def token(self, index: int) -> str:
        """One id as it is written in the vocabulary."""
        ...

    def save(self, folder: PathLike) -> None:
        """Writes the vocabulary into `folder`; `tokenizers.loading.load` reads it back."""
        ...


class Rows(Protocol):
    """Rows of batches, as a pure function of (index, epoch, seed).

    Attributes:
      lengths: tokens per row by side, {"decoder": L} or {"encoder": L, "decoder": L'}.
      vocabulary: the vocabulary of the token ids.
      fingerprint: rows with the same one are the same.
      group: this many neighbouring rows belong together (a pair of answers, samples of a prompt); 1 where each row stands
        alone. The number of rows is a multiple of it, and shuffling, microbatches, devices and resuming never part a group.
      extra_features: {name: batches.Feature} of the arrays that `fetch` returns besides the common ones (see `batches`).
    """

    @property
    def lengths(self) -> Mapping[str, int]: ...
    @property
    def vocabulary(self) -> Vocabulary: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def group(self) -> int: ...
    @property
    def extra_features(self) -> Mapping[str, Any]: ...

    def __len__(self) -> int:
        """Rows per epoch."""
        ...

    def fetch(self, index_n: np.ndarray, epoch_n: np.ndarray, seed: int) -> dict[str, np.ndarray]:
        """Rows `index_n` of epochs `epoch_n`: {feature: [n, ...]}."""
        ...


class Sampler(Protocol):
    """Chooses the next token: random keys [B] and logits [B, V] to ids int32 [B]."""

    def __call__(self, keys_B: jax.Array, logits_BV: jax.Array) -> jax.Array: ...


class Optimizer(Protocol):
    """An optax.GradientTransformation."""

    @property
    def init(self) -> Any:
        """`init(params) -> state`; parameters boxed with logical axis names give a boxed state."""
        ...

    @property
    def update(self) -> Any:
        """`update(grads, state, params) -> (updates, state)`."""
        ...


class Writer(Protocol):
    """Keeps the metrics of a run."""

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Records `scalars` by name, as measured after `step` steps."""
        ...


class LM(Protocol):
    """A language model as the text side sees it: text in, text and log-probabilities out."""

    def generate(self, prompts: Sequence[str], *, max_tokens: int, **options: Any) -> Sequence[str]:
        """One completion per prompt."""
        ...

    def score(self, contexts: Sequence[str], continuations: Sequence[str]) -> Sequence[float]:
        """log p(continuation | context) in nats, one per pair."""
        ...
