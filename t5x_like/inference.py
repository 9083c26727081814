"""Text generation: prompts are tokenized and continued on a mesh, and their completions are records, ready for JSON.

Samplers continue prompts in rows that the next prompts enter when one ends (`serving.generator`); beam searches and speculative
decoding in batches that last until every row has ended (`batching.generation`).
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

from jax.sharding import Mesh

from t5x_like import parameters, partitioning
from t5x_like.batching import generation
from t5x_like.batching.sharded import ShardedFunction
from t5x_like.data.chats import chat
from t5x_like.decoding.beams import BeamSearch
from t5x_like.decoding.processors import Processor
from t5x_like.decoding.proposers import Draft
from t5x_like.decoding.sampling import Greedy
from t5x_like.decoding.slots import Strategy
from t5x_like.decoding.speculative import Proposer
from t5x_like.prompt_batches import make_prompt_batch, prompt_ids, render_prompt
from t5x_like.serving.generator import Generator, Prompt
from t5x_like.serving.requests import TOP, Completion, Settings, Token
from t5x_like.types import Model, Params, Sampler, Vocabulary

Records = Iterator[tuple[int, Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True)
class DecodingOptions:
    """How `infer` generates completions.

    `batch_size` is the number of rows that are continued at once; every prompt is read once and continued `samples` times.
    `processors` change the logits before the sampler does. `prefix` makes a prefix language model read prompts
    bidirectionally. `stop` are texts that end a completion, and are no part of it. `log_probs` adds every token with its
    log-probabilities and this many alternatives, at most 20. `proposer` guesses tokens, which the model verifies
    (`decoding.speculative`); completions have the same distribution.

    With a beam search or a proposer, `batch_size` is the number of prompts of a batch, each with all of its samples or beams.

    Raises:
      ValueError: a number out of its range, an empty stop text; several samples or a proposer with beam search; stop texts or
        log_probs with either.
    """

    sampler: Sampler | BeamSearch = Greedy()  # noqa: RUF009 - frozen
    max_new_tokens: int = 128
    batch_size: int = 8
    seed: int = 0
    prefix: bool = False
    processors: Sequence[Processor] = ()
    samples: int = 1
    proposer: Proposer | None = None
    stop: Sequence[str] = ()
    log_probs: int | None = None

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "batch_size", "samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.samples > 1 and isinstance(self.sampler, BeamSearch):
            raise ValueError(f"samples={self.samples} needs a sampler; a beam search has BeamSearch.returned instead")
        if self.proposer is not None and isinstance(self.sampler, BeamSearch):
            raise ValueError(
                f"proposer={type(self.proposer).__name__} needs a sampler; a beam search has no speculative decoding"
            )
        if self.log_probs is not None and not 0 <= self.log_probs <= TOP:
            raise ValueError(f"log_probs={self.log_probs} must be 0 to {TOP}, the number of alternatives of a token")
        for name in ("stop", "log_probs"):
            if self.in_batches and getattr(self, name) not in ((), [], None):
                raise ValueError(
                    f"{name}={getattr(self, name)!r} needs a sampler without a proposer; neither a beam search nor speculative "
                    "decoding has it"
                )
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} is not in 0 .. 2^63 - 1")
        self.settings()

    @property
    def in_batches(self) -> bool:
        """Whether prompts are continued in batches that last until every row has ended."""
        return isinstance(self.sampler, BeamSearch) or self.proposer is not None

    def settings(self) -> Settings:
        """What a request of a prompt says besides the sampler.

        Raises:
          ValueError: a stop text is empty.
        """
        return Settings(
            max_new_tokens=self.max_new_tokens, stop=self.stop, seed=self.seed, top_log_probs=self.log_probs or 0
        )


def infer(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    prompts: Iterable[str | dict[str, Any]],
    options: DecodingOptions = DecodingOptions(),
    mesh: Mesh | None = None,
    rules: partitioning.Rules = partitioning.RULES,
    finished: Container[int] = (),
) -> Iterator[dict[str, Any]]:
    """Yields the completion of every prompt, in order: {"id", "prompt", and what `describe` says}.

    Several samples are in "samples", the first one in the record itself. Beams and a proposer add what `results.completion`
    says. A prompt is a text, {"prompt": text, "id": any}, or a chat {"messages": [{"role", "content"}, ...]}, which the
    vocabulary's template renders as text. Decoder-only models continue the prompt; encoder-decoder models read it with the
    encoder. A result depends on the prompt, its index and the seed, not on the batch size or the other prompts. The prompts
    whose indices are in `finished` are left out, without changing the results of the others.

    A prompt that cannot be continued gives {"id", "prompt", "error"}, and the others go on: one that the model's position table
    does not hold with its new tokens, one that is not UTF-8 text, an empty one if the vocabulary has no bos, a chat that the
    template rejects, one whose logits are NaN.

    Raises:
      ValueError: a model without a decoder, a chat if the vocabulary has no template, or a sampler or model that cannot
        continue any prompt.
    """
    generation.check_generates(model)
    mesh = partitioning.make_mesh() if mesh is None else mesh
    records: Records = enumerate({"prompt": prompt} if isinstance(prompt, str) else prompt for prompt in prompts)
    if options.in_batches:
        yield from infer_in_batches(model, params, vocabulary, records, options, mesh, rules, finished)
    else:
        left = ((index, record) for index, record in records if index not in finished)
        yield from infer_in_rows(model, params, vocabulary, left, options, mesh, rules)


def infer_in_rows(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    records: Records,
    options: DecodingOptions,
    mesh: Mesh,
    rules: partitioning.Rules,
) -> Iterator[dict[str, Any]]:
    """Yields what `infer` does, by a sampler."""
    assert not isinstance(options.sampler, BeamSearch)
    generator = Generator(
        model,
        params,
        vocabulary,
        options.settings(),
        Strategy(options.sampler, options.processors),
        options.batch_size,
        options.samples,
        options.prefix,
        mesh,
        rules,
    )

    def read() -> Iterator[Prompt]:
        for index, record in records:
            result, ids = read_prompt(record, index, vocabulary, model.encoder_decoder)
            yield Prompt(ids, index, result)

    for prompt, completions in generator(read()):
        samples = [describe(completion, vocabulary, options) for completion in completions]
        if failed := [sample for sample in samples if "error" in sample]:
            yield prompt.record | failed[0]
        elif samples:
            yield prompt.record | samples[0] | ({"samples": samples} if len(samples) > 1 else {})
        else:
            yield prompt.record


def infer_in_batches(
    model: Model,
    params: Params,
    vocabulary: Vocabulary,
    records: Records,
    options: DecodingOptions,
    mesh: Mesh,
    rules: partitioning.Rules,
    finished: Container[int],
) -> Iterator[dict[str, Any]]:
    """Yields what `infer` does, by a beam search or with a proposer.

    A batch is computed as a whole unless all of it is `finished`.
    """
    model, params = parameters.unroll(model, params)
    proposer = options.proposer
    if isinstance(proposer, Draft):
        draft_model, draft_params = parameters.unroll(proposer.model, proposer.params)
        proposer = dataclasses.replace(proposer, model=draft_model, params=draft_params)
        params = {"model": params, "draft": draft_params}
    decode_fn = generation.make_decode_fn(
        model, vocabulary, options.sampler, options.max_new_tokens, options.processors, options.samples, proposer
    )
    decode = ShardedFunction(decode_fn, options.batch_size, mesh, rules)
    make_batch = functools.partial(make_prompt_batch, vocabulary, model.encoder_decoder, options.prefix)
    while chunk := list(itertools.islice(records, decode.size)):
        if all(index in finished for index, _ in chunk):
            continue
        read = {index: read_prompt(record, index, vocabulary, model.encoder_decoder) for index, record in chunk}
        ids = {index: row for index, (_, row) in read.items() if row}
        results = generation.continue_prompts(decode, params, vocabulary, options.seed, make_batch, ids)
        yield from (read[index][0] | results.get(index, {}) for index, _ in chunk if index not in finished)


def describe(completion: Completion, vocabulary: Vocabulary, options: DecodingOptions) -> dict[str, Any]:
    """The record of a completion: {"completion", "tokens", "log_prob", "finished", "finish_reason"}, or {"error"}.

    "tokens" are all that were generated, also those of a stop text. "log_prob" (nats) is the sum of theirs. "finish_reason" is
    "stop" (a stop id or a stop text: "finished") or "length". `log_probs` adds "token_log_probs", what `describe_token` says of
    every token.
    """
    if completion.error is not None:
        return {"error": completion.error}
    record = {
        "completion": completion.text if options.stop else vocabulary.decode(completion.ids),
        "tokens": completion.ids,
        "log_prob": completion.log_prob,
        "finished": completion.finish_reason == "stop",
        "finish_reason": completion.finish_reason,
    }
    if options.log_probs is None:
        return record
    return record | {"token_log_probs": [describe_token(token, vocabulary) for token in completion.tokens]}


def describe_token(token: Token, vocabulary: Vocabulary) -> dict[str, Any]:
    """{"id", "token", "bytes", "log_prob", "processed_log_prob", "top": [{"id", "token", "bytes", "log_prob"}, ...]}.

    "bytes" are those of text; a special token has none. A log-probability of -inf is null.
    """

    def entry(index: int, **log_probs: float) -> dict[str, Any]:
        known = index < len(vocabulary.token_bytes)  # a model may have more ids than its vocabulary
        names = {"token": vocabulary.token(index), "bytes": list(vocabulary.token_bytes[index])} if known else {}
        values = {name: value if math.isfinite(value) else None for name, value in log_probs.items()}
        return {"id": index, "token": "", "bytes": []} | names | values

    chosen = entry(token.id, log_prob=token.log_prob, processed_log_prob=token.processed_log_prob)
    return chosen | {"top": [entry(index, log_prob=value) for index, value in token.top]}


def read_prompt(
    record: Mapping[str, Any], index: int, vocabulary: Vocabulary, seq2seq: bool
) -> tuple[dict[str, Any], list[int]]:
    """The result of a prompt as far as it is known before decoding, and its ids; no ids and an "error" if it has none.

    Raises:
      ValueError: a chat if the vocabulary has no template.
    """
    if "messages" in record:
        chat.check_template(vocabulary)
    result = {"id": record.get("id", index), "prompt": record.get("prompt", "")}
    try:
        rendered = render_prompt(record, vocabulary)
        result["prompt"] = rendered["prompt"]
        return result, prompt_ids(rendered | {"id": result["id"]}, vocabulary, seq2seq)
    except (ValueError, RecursionError) as error:  # messages may be nested deeply
        return result | {"error": str(error)}, []
