"""Sentence embeddings: unit vectors of texts, which are tokenized, padded to a few lengths, and batched."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from t5x_like import partitioning
from t5x_like.batching.sharded import ShardedFunction
from t5x_like.data.tokenizers import vocabularies
from t5x_like.prompt_batches import BUCKET, pad_rows, round_up
from t5x_like.types import Model, Params, Vocabulary


class Embedder:
    """Computes unit vectors of texts: the mean of the last hidden states over a text's tokens.

    The states are the encoder's, or those of a decoder-only model. For sentence encoders such as all-MiniLM the dot product of
    two vectors is the cosine similarity of their texts. Names of control tokens are text. A length is compiled once, at its first
    use; lengths are rounded up, but not beyond `max_length`.
    """

    def __init__(
        self,
        model: Model,
        vocabulary: Vocabulary,
        batch_size: int = 32,
        mesh: Mesh | None = None,
        rules: partitioning.Rules = partitioning.RULES,
        max_length: int | None = None,
    ) -> None:
        self.model, self.vocabulary, self.side = model, vocabulary, model.sides[0]
        self.max_length = max_length
        mesh = partitioning.make_mesh() if mesh is None else mesh
        self.function = ShardedFunction(self.mean_pool, batch_size, mesh, rules)

    def mean_pool(self, params: Params, batch: dict[str, Any]) -> jax.Array:
        """The vectors of rows, float32 [B, D]."""
        if self.model.encoder_decoder:
            x_BLD, _ = self.model.apply({"params": params}, batch, False, None, method="encode")
        else:
            x_BLD = self.model.apply({"params": params}, batch, method="hidden")
        return unit_mean(x_BLD, batch[f"{self.side}_segment_ids"])

    def __call__(self, params: Params, texts: Sequence[str]) -> np.ndarray:
        """Vectors, float32 [N, D].

        Raises:
          ValueError: a text without tokens, or longer than `max_length` or the model's position table.
        """
        ids = [vocabularies.encode_special(self.vocabulary, text) for text in texts]
        if [] in ids:
            raise ValueError(f"text {ids.index([])} has no tokens, so it has no vector; give texts that are not empty")
        longest, most = max(map(len, ids), default=0), self.max_length
        if most is not None and longest > most:
            raise ValueError(f"a text has {longest} tokens, more than the {most} that the model reads; shorten it")
        order = sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True)  # what is too long fails at once
        vectors: dict[int, np.ndarray] = {}
        for begin in range(0, len(order), self.function.size):
            chunk = order[begin : begin + self.function.size]
            length = round_up(len(ids[chunk[0]]), BUCKET)
            batch = pad_rows([ids[i] for i in chunk], min(length, most or length), self.side)
            vectors.update(zip(chunk, self.function(params, batch), strict=True))
        return np.stack([vectors[i] for i in range(len(ids))]) if ids else np.zeros((0, 0), np.float32)


def unit_mean(x_BLD: jax.Array, segments_BL: jax.Array) -> jax.Array:
    """The mean of each row over the tokens whose segment is not 0, scaled to length 1: float32 [B, D]."""
    x_BD = jnp.sum(x_BLD.astype(jnp.float32) * (segments_BL > 0)[..., None], axis=1)
    return x_BD / jnp.linalg.norm(x_BD, axis=-1, keepdims=True)
