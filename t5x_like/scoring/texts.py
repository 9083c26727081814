"""Scores of texts: continuations of contexts, whole documents, and masked texts, with their records.

A record is {"context", "continuation"}, {"prompt", "completion"} as `inference.infer` writes them, or {"text"}, a document.
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from t5x_like import partitioning
from t5x_like.data.noise.words import find_word_starts
from t5x_like.data.tokenizers import vocabularies
from t5x_like.scoring.rows import Row, causal_row, check_overlap, masked_rows, rolling_windows, seq2seq_row
from t5x_like.scoring.scorer import Scorer, Scores
from t5x_like.types import Model, Params, Vocabulary

FIELDS = (("context", "continuation"), ("prompt", "completion"), ("text",))
BATCHES = 8  # records are sorted by length among those of this many batches


@dataclasses.dataclass(frozen=True)
class ScoringOptions:
    """How texts are scored.

    Attributes:
      limits: the most ids that the model reads, by side; see `rows.length_limits`.
      batch_size: rows per batch; a masked text has one row per token.
      overlap: the ids of a document that a window reads again, as the context of the next ones.
      prefix: whether the model is a prefix LM, which reads contexts bidirectionally.
      word_l2r: whether the rest of a word is masked with each of its tokens, which are then predicted from left to right.
      tokens: whether records have every token with its log-probability.
      top: how many of the most likely tokens records have for every token.

    Raises:
      ValueError: `batch_size` is below 1.
    """

    limits: Mapping[str, int]
    batch_size: int = 32
    overlap: int = 1
    prefix: bool = False
    word_l2r: bool = False
    tokens: bool = False
    top: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be at least 1")


class TextScorer:
    """Scores texts with one model.

    A decoder-only model reads context and continuation, an encoder-decoder reads the context with its encoder. An encoder gives
    pseudo-log-likelihoods: every token is predicted from all others, and masked alone (Salazar et al. 2020) or, with
    `word_l2r`, with the rest of its word (Kauf & Ivanova 2023: a word is not given away by its last tokens).

    Raises:
      ValueError: the model does not predict tokens, the overlap is longer than a window, the vocabulary of an encoder has no
        mask, or `word_l2r` with another model or with tokens that do not tell where words begin.
    """

    def __init__(
        self,
        model: Model,
        vocabulary: Vocabulary,
        options: ScoringOptions,
        mesh: Mesh | None = None,
        rules: partitioning.Rules = partitioning.RULES,
    ) -> None:
        mesh = partitioning.make_mesh() if mesh is None else mesh
        self.scorer = Scorer(model, mesh, rules, options.batch_size, options.top, options.prefix)
        self.vocabulary, self.limits, self.options = vocabulary, options.limits, options
        self.seq2seq, self.masked = model.encoder_decoder, "decoder" not in model.sides
        self.mask = vocabularies.mask_id(vocabulary) if self.masked else None
        if options.word_l2r and not self.masked:
            raise ValueError("word_l2r=True applies to masked language models; leave it out")
        self.starts_V = find_word_starts(vocabulary) if options.word_l2r else None
        check_overlap(options.overlap, self.window)

    def __call__(self, params: Params, records: Sequence[Mapping[str, Any]]) -> list[Scores | ValueError]:
        """The scores of each record, or the reason why it has none; `params` have the compute dtype."""
        read = [self.read(record) for record in records]
        rows = [row for part in read if not isinstance(part, ValueError) for row in part]
        scores = iter(self.scorer(params, rows))
        joined = [
            part if isinstance(part, ValueError) else Scores.join([next(scores) for _ in part], self.options.top)
            for part in read
        ]
        return [part if isinstance(part, ValueError) else check_finite(part) for part in joined]

    def read(self, record: Mapping[str, Any]) -> list[Row] | ValueError:
        """The rows of a record, or the reason why it has none."""
        try:
            texts = texts_of(record)
            check_unicode(texts)
            rows = self.pair(*texts.values()) if len(texts) > 1 else self.document(*texts.values())
        except ValueError as error:
            return error
        *_, name = texts
        if texts[name] and not any(row.targets for row in rows):
            return ValueError(f"the {name} {texts[name][:60]!a} adds no token to score; give a longer one")
        return rows

    def pair(self, context: str, continuation: str) -> list[Row]:
        """The rows of a continuation, tokenized as lm-evaluation-harness does.

        Spaces at the end of the context belong to the continuation. Its ids are those of both texts together, without as many
        as the context alone has; an encoder-decoder's are those of the continuation alone.

        Raises:
          ValueError: the continuation is longer than the model reads.
        """
        context, continuation = move_spaces(context, continuation)
        ids = self.context_ids(context)
        if self.seq2seq:
            return self.rows(ids, self.vocabulary.encode(continuation))
        whole = self.vocabulary.encode(context + continuation)
        if not self.masked and ids[0] == self.start and whole[:1] != [self.start]:
            whole = [self.start, *whole]
        return self.rows(ids, whole[len(ids) :])

    def context_ids(self, context: str) -> list[int]:
        """The ids of a context: a decoder's begin with bos if the vocabulary adds it, and are not empty."""
        if self.seq2seq:
            return self.vocabulary.encode_special(context)
        ids = self.vocabulary.encode(context)
        if self.masked or ids[:1] == [self.start] or (ids and not self.vocabulary.add_bos):
            return ids
        return [self.start, *ids]

    def document(self, text: str) -> list[Row]:
        """The rows of a document, in which names of control tokens are text: windows that fill the model's length."""
        first = self.vocabulary.encode_special("") if self.seq2seq else [] if self.masked else [self.start]
        ids = self.vocabulary.encode(text, literal=True)
        windows = rolling_windows(ids, first, self.window, self.options.overlap)
        return [row for window in windows for row in self.rows(*window)]

    def rows(self, context: Sequence[int], targets: Sequence[int]) -> list[Row]:
        """The rows of ids, by the model's architecture."""
        if self.mask is not None:
            return masked_rows(context, targets, self.around, self.mask, self.limits["encoder"], self.starts_V)
        if self.seq2seq:
            return [seq2seq_row(context, targets, self.start, self.limits)]
        return [causal_row(context, targets, self.limits["decoder"], len(context) * self.options.prefix)]

    @property
    def window(self) -> int:
        """The length of a window, see `rows.rolling_windows`; an encoder reads the whole context besides the targets."""
        return self.limits["encoder"] - sum(map(len, self.around)) - 1 if self.masked else self.limits["decoder"]

    @functools.cached_property
    def start(self) -> int:
        """The id that a decoder starts with."""
        return vocabularies.start_id(self.vocabulary)

    @functools.cached_property
    def around(self) -> tuple[list[int], list[int]]:
        """The special ids before and after a text that an encoder reads."""
        ids, whole = self.vocabulary.encode("a"), self.vocabulary.encode_special("a")
        begin = next(i for i in range(len(whole)) if whole[i : i + len(ids)] == ids)
        return whole[:begin], whole[begin + len(ids) :]


def texts_of(record: Mapping[str, Any]) -> dict[str, str]:
    """The texts of a record: those of a pair, or one document.

    Raises:
      ValueError: it has neither.
    """
    for names in FIELDS:
        if all(isinstance(record.get(name), str) for name in names):
            return {name: record[name] for name in names}
    raise ValueError(f"need texts named {', or '.join(' and '.join(names) for names in FIELDS)}, got {list(record)}")


def check_unicode(texts: Mapping[str, str]) -> None:
    """Raises ValueError if a text is not Unicode text."""
    for name, text in texts.items():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ValueError(
                f"the {name} has half of a surrogate pair, U+{ord(text[error.start]):04X}, at character {error.start}, so it is "
                "not Unicode text; remove it"
            ) from error


def move_spaces(context: str, continuation: str) -> tuple[str, str]:
    """Moves spaces from the end of the context to the continuation, whose first token they belong to."""
    kept = context.rstrip()
    return kept, context[len(kept) :] + continuation


def check_finite(scores: Scores) -> Scores | ValueError:
    """The scores, or the reason why they are none."""
    bad = np.flatnonzero(~np.isfinite(scores.log_probs_N))
    if not len(bad):
        return scores
    return ValueError(
        f"the log-probability of token {bad[0] + 1} is {scores.log_probs_N[bad[0]]}; check the checkpoint's weights, or "
        "compute in float32"
    )


def score(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    records: Iterable[Mapping[str, Any]],
    options: ScoringOptions,
    mesh: Mesh | None = None,
    rules: partitioning.Rules = partitioning.RULES,
    finished: Container[int] = (),
) -> Iterator[dict[str, Any]]:
    """Yields the scores of every record, in order, as `describe` writes them, without the indices in `finished`.

    A record that cannot be scored gives {"id", its texts, "error"}, and the others go on. Results do not depend on `finished`.

    Raises:
      ValueError: as `TextScorer`.
      MemoryError: attention scores exceed the free memory of a CPU; lower batch_size.
    """
    scorer = TextScorer(model, vocabulary, options, mesh, rules)
    indexed = enumerate(records)
    while chunk := list(itertools.islice(indexed, BATCHES * scorer.scorer.function.size)):
        if all(index in finished for index, _ in chunk):
            continue
        results = scorer(params, [record for _, record in chunk])
        for (index, record), scores in zip(chunk, results, strict=True):
            if index not in finished:
                yield {"id": record.get("id", index)} | describe(record, scores, vocabulary, options)


def describe(
    record: Mapping[str, Any], scores: Scores | ValueError, vocabulary: Vocabulary, options: ScoringOptions
) -> dict[str, Any]:
    """The texts of a record with their scores, ready for JSON, or with an "error".

    The scores are those of the continuation or document: "log_prob" (nats), "token_count", "byte_count" (UTF-8),
    "bits_per_byte" (null of an empty text), "greedy" (whether every token is the most likely one), and "dropped", the number of
    context ids that were cut off. `ScoringOptions.tokens` adds "tokens" and "log_probs", `top` adds "top".
    """
    if isinstance(scores, ValueError):
        return {name: record[name] for names in FIELDS for name in names if name in record} | {"error": str(scores)}
    texts = texts_of(record)
    *_, scored = move_spaces(*texts.values()) if len(texts) > 1 else texts.values()
    size = len(scored.encode())
    result: dict[str, Any] = {
        "log_prob": scores.log_prob,
        "token_count": len(scores.targets_N),
        "byte_count": size,
        "bits_per_byte": -scores.log_prob / math.log(2) / size if size else None,
        "greedy": scores.greedy,
        "dropped": scores.dropped,
    }
    if options.tokens:
        result |= {"tokens": scores.targets_N.tolist(), "log_probs": scores.log_probs_N.tolist()}
    if options.top:
        pairs = zip(scores.top_ids_NK.tolist(), scores.top_log_probs_NK.tolist(), strict=True)
        result["top"] = [list(map(functools.partial(alternative, vocabulary), *pair)) for pair in pairs]
    return texts | result


def alternative(vocabulary: Vocabulary, index: int, log_prob: float) -> dict[str, Any]:
    """One of the most likely tokens, ready for JSON."""
    return {"id": index, "token": vocabulary.token(index), "log_prob": log_prob}
