"""Reading texts without continuing them: log-probabilities of their tokens, and embeddings."""

import functools
import threading
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from jax.sharding import Mesh

from t5x_like import partitioning
from t5x_like.batching import embedding
from t5x_like.scoring.rows import DEFAULT_LENGTH, causal_row, position_table
from t5x_like.scoring.scorer import Scorer
from t5x_like.serving.requests import TOP, Settings, Token
from t5x_like.types import Model, Params, Vocabulary

ROWS = 8  # of a batch


class PromptScorer:
    """The log-probabilities of the tokens of prompts under a decoder-only model.

    Raises:
      ValueError: an encoder reads prompts.
    """

    def __init__(self, model: Model, params: Params, mesh: Mesh, rules: partitioning.Rules) -> None:
        if model.encoder_decoder:
            raise ValueError("an encoder reads prompts, so their tokens have no log-probabilities")
        self.model, self.params, self.mesh, self.rules = model, params, mesh, rules
        self.lock = threading.Lock()

    @functools.cache  # noqa: B019 - it lives as long as its engine
    def scorer(self, top: int) -> Scorer:
        """The scorer of one of few numbers of alternatives, each of which is compiled."""
        return Scorer(self.model, self.mesh, self.rules, ROWS, top)

    def __call__(self, rows: Sequence[Sequence[int]], top: int) -> list[list[Token]]:
        """The tokens of every row but its first, with `top` alternatives.

        Raises:
          ValueError: `top` is not in 0 .. 20, or a logit is NaN.
        """
        if not 0 <= top <= TOP:
            raise ValueError(f"top={top} must be 0 to {TOP}")
        read = [causal_row(row[:1], row[1:], len(row)) for row in rows]
        most = next(size for size in (0, 5, TOP) if size >= top)
        with self.lock:  # the memory of one batch is enough
            scores = self.scorer(min(most, self.model.vocab_size))(self.params, read)
        if not all(np.isfinite(one.log_probs_N).all() for one in scores):
            raise ValueError("the model's log-probabilities of this prompt are not finite")
        return [
            [
                Token(int(index), float(value), float(value), tuple(zip(ids.tolist(), values.tolist(), strict=True)))
                for index, value, ids, values in zip(
                    one.targets_N,
                    one.log_probs_N,
                    one.top_ids_NK[:, :top],
                    one.top_log_probs_NK[:, :top],
                    strict=True,
                )
            ]
            for one in scores
        ]


class TextEncoder:
    """A sentence encoder in the place of an engine: it embeds texts, and refuses what needs a decoder."""

    def __init__(
        self, model: Model, params: Params, vocabulary: Vocabulary, mesh: Mesh, rules: partitioning.Rules
    ) -> None:
        self.model, self.params, self.vocabulary = model, params, vocabulary
        self.max_length = min(DEFAULT_LENGTH, position_table(model) or DEFAULT_LENGTH)
        self.embedder = embedding.Embedder(model, vocabulary, ROWS, mesh, rules, self.max_length)
        self.lock, self.texts = threading.Lock(), 0

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """Unit vectors of texts, float32 [N, D]; see `embedding.Embedder`.

        Raises:
          ValueError: a text that is too long.
        """
        with self.lock:
            self.texts += len(texts)
            return self.embedder(self.params, texts)

    def submit(self, prompt: Sequence[int], settings: Settings, on_delta: object = None) -> NoReturn:
        """Refuses a request.

        Raises:
          ValueError: always.
        """
        raise ValueError(f"the model ({type(self.model).__name__}) has no decoder, so it generates no text")

    def score(self, rows: Sequence[Sequence[int]], top: int) -> NoReturn:
        """Refuses a request.

        Raises:
          ValueError: always.
        """
        raise ValueError(f"the model ({type(self.model).__name__}) has no decoder, so it predicts no next tokens")

    def statistics(self) -> dict[str, float]:
        """The number of texts."""
        return {"embedded_texts_total": self.texts}

    def close(self, drain: bool = True) -> None:
        """Ends."""
