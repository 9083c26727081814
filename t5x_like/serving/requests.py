"""What an engine is asked for and what it answers: settings of a request, pieces of its completion, and the whole."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from t5x_like.decoding.grammars import Grammar

TOP = 20  # the most alternatives of a token that are reported
BIASES = 300  # the most tokens of a request that have a bias

LIMITS: Mapping[str, tuple[float, float]] = {
    "max_new_tokens": (1, math.inf),
    "min_new_tokens": (0, math.inf),
    "temperature": (0, 1e6),
    "top_k": (0, 2**31 - 1),
    "top_p": (0, 1),
    "min_p": (0, 1),
    "typical_p": (0, 1),
    "repetition_penalty": (0, 1e6),
    "frequency_penalty": (-1e6, 1e6),
    "presence_penalty": (-1e6, 1e6),
    "seed": (0, 2**63 - 1),
    "sample": (0, 2**31 - 1),
    "top_log_probs": (0, TOP),
}
POSITIVE = ("top_p", "typical_p", "repetition_penalty")  # 0 is no value of these
WHOLE = ("max_new_tokens", "min_new_tokens", "top_k", "seed", "sample", "top_log_probs")


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a request is continued; the defaults are greedy.

    Attributes:
      temperature: 0 chooses the most likely token.
      top_k: the number of most likely tokens that are sampled from; 0 keeps all. See `decoding.sampling.Sample` for this and
        `top_p`, `min_p` and `typical_p`.
      repetition_penalty: see `decoding.processors` for this, `frequency_penalty`, `presence_penalty`, `min_new_tokens` and
        `logit_bias` ({id: number}).
      stop: texts that end the completion; they are not part of it.
      stop_ids: whether the vocabulary's stop ids end it.
      seed: with `sample`, determines the random numbers: the token at a position depends on these two and the prompt alone.
      top_log_probs: how many alternatives are reported for every token.
      grammar: what the completion matches.

    Raises:
      ValueError: a number out of its range, or a stop text that is empty.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    min_new_tokens: int = 0
    logit_bias: Mapping[int, float] = dataclasses.field(default_factory=dict)
    stop: Sequence[str] = ()
    stop_ids: bool = True
    seed: int = 0
    sample: int = 0
    top_log_probs: int = 0
    grammar: Grammar | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            kinds = (int,) if name in WHOLE else (int, float)
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ValueError(f"{name}={value!r} is not a {'whole ' * (name in WHOLE)}number")
            if not low <= value <= high or (value == 0 and name in POSITIVE):
                least = f"above {low}" if name in POSITIVE else f"{low} or more"
                raise ValueError(f"{name}={value} must be {least}{f' and at most {high}' * (high < math.inf)}")
        if not isinstance(self.stop_ids, bool):
            raise ValueError(f"stop_ids={self.stop_ids!r} must be True or False")
        if not isinstance(self.grammar, Grammar | None):
            raise ValueError(
                f"grammar={self.grammar!r} is not a Grammar; make one by Grammar.regex or Grammar.json_schema"
            )
        if not isinstance(self.logit_bias, Mapping):
            raise ValueError(f"logit_bias={self.logit_bias!r} must be a dict of token ids and numbers")
        if (
            isinstance(self.stop, str)
            or not isinstance(self.stop, Sequence)
            or not all(isinstance(text, str) and text for text in self.stop)
        ):
            raise ValueError(f"stop={self.stop!r} must be a list of texts, none of them empty")
        if len(self.logit_bias) > BIASES:
            raise ValueError(f"logit_bias has {len(self.logit_bias)} tokens; give at most {BIASES}")
        for index, value in self.logit_bias.items():
            if isinstance(index, bool) or not isinstance(index, int) or index < 0 or not value < math.inf:
                raise ValueError(f"logit_bias={{{index!r}: {value!r}}} must be a token id and a number below infinity")


@dataclasses.dataclass(frozen=True)
class Token:
    """A generated token.

    Attributes:
      id: the token.
      log_prob: its log-probability (nats) under the model, before processors and the sampler change its logits.
      processed_log_prob: its log-probability among the tokens that are sampled from.
      top: the most likely tokens with their log-probabilities under the model, as many as asked for.
    """

    id: int
    log_prob: float
    processed_log_prob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True)
class Delta:
    """The next piece of a completion.

    Attributes:
      text: more text; characters that the next token may complete, or that may begin a stop text, come later.
      tokens: more tokens.
      finish_reason: None while more comes. "stop" (a stop id, a stop text, or the end of a grammar), "length" (as many tokens as
        asked for, or as fit), "cancelled", or "error".
      error: what failed.
    """

    text: str = ""
    tokens: tuple[Token, ...] = ()
    finish_reason: str | None = None
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class Completion:
    """All of a completion.

    Attributes:
      text: the text, without a stop text.
      tokens: all tokens that were generated, including the stop id and those of a stop text.
      finish_reason: as in `Delta`, never None.
      prompt_tokens: length of the prompt.
      cached_tokens: how many of its tokens had been read for an earlier request.
      error: what failed, if finish_reason is "error".
    """

    text: str
    tokens: tuple[Token, ...]
    finish_reason: str
    prompt_tokens: int
    cached_tokens: int = 0
    error: str | None = None

    @property
    def ids(self) -> list[int]:
        """The ids of the tokens."""
        return [token.id for token in self.tokens]

    @property
    def log_prob(self) -> float:
        """The sum of the tokens' log-probabilities."""
        return math.fsum(token.log_prob for token in self.tokens)


class QueueFullError(Exception):
    """An engine has as many waiting requests as it accepts; try again after `retry_after` seconds."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(f"{waiting} requests are waiting already; try again in {retry_after:.0f} s")
        self.retry_after = retry_after
