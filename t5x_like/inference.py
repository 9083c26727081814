"""Text generation and sentence embeddings: texts are tokenized, padded to a few lengths, batched and run on a mesh."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from t5x_like import parameters, partitioning
from t5x_like.accounting import runtime_memory
from t5x_like.data.tokenizers import chat, vocabularies
from t5x_like.decoding import beams
from t5x_like.decoding.beams import Beams, BeamSearch
from t5x_like.decoding.loop import Generated, generate
from t5x_like.decoding.processors import Processor
from t5x_like.decoding.proposers import Draft
from t5x_like.decoding.results import completion
from t5x_like.decoding.sampling import Greedy
from t5x_like.decoding.speculative import Proposer, Speculated, speculate
from t5x_like.prompt_batches import BUCKET, make_prompt_batch, pad_rows, prompt_ids, render_prompt, round_up
from t5x_like.types import Model, Params, Sampler, Vocabulary


@dataclasses.dataclass(frozen=True)
class DecodingOptions:
    """How `infer` generates completions.

    `batch_size` is prompts per batch; every prompt is read once and continued `samples` times. `processors` change the logits
    before the sampler does. `prefix` makes a prefix language model read prompts bidirectionally. `proposer` guesses tokens,
    which the model verifies (`decoding.speculative`); completions have the same distribution.

    Raises:
      ValueError: a count below 1, several samples or a proposer with beam search, or a seed that is not in 0 .. 2^63 - 1.
    """

    sampler: Sampler | BeamSearch = Greedy()  # noqa: RUF009 - frozen
    max_new_tokens: int = 128
    batch_size: int = 8
    seed: int = 0
    prefix: bool = False
    processors: Sequence[Processor] = ()
    samples: int = 1
    proposer: Proposer | None = None

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
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed} is not in 0 .. 2^63 - 1")


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
    """Yields the completion of every prompt, in order: {"id", "prompt", "completion", "tokens", "log_prob", "finished"}.

    Several samples, beams and a proposer add what `results.completion` says. A prompt is a text, {"prompt": text, "id": any},
    or a chat {"messages": [{"role", "content"}, ...]}, which the vocabulary's template renders as text. Decoder-only models
    continue the prompt; encoder-decoder models read it with the encoder. A result depends on the prompt, its index and the
    seed, not on the batch size or the other prompts. The prompts whose indices are in `finished` are left out, without
    changing the batches of the others.

    A prompt that cannot be continued gives {"id", "prompt", "error"}, and the others go on: one that the model's position table
    does not hold with its new tokens, one that is not UTF-8 text, an empty one if the vocabulary has no bos, a chat that the
    template rejects, one whose logits are NaN.

    Raises:
      ValueError: a model without a decoder, a chat if the vocabulary has no template, or a sampler or model that cannot
        continue any prompt.
    """
    check_generates(model)
    mesh = partitioning.make_mesh() if mesh is None else mesh
    model, params = parameters.unroll(model, params)
    sampler, proposer = options.sampler, options.proposer
    if isinstance(proposer, Draft):
        draft_model, draft_params = parameters.unroll(proposer.model, proposer.params)
        proposer = dataclasses.replace(proposer, model=draft_model, params=draft_params)
    decode_fn = make_decode_fn(
        model, vocabulary, sampler, options.max_new_tokens, options.processors, options.samples, proposer
    )
    decode = ShardedFunction(decode_fn, options.batch_size, mesh, rules)
    if isinstance(proposer, Draft):
        params = {"model": params, "draft": proposer.params}
    make_batch = functools.partial(make_prompt_batch, vocabulary, model.encoder_decoder, options.prefix)
    indexed = enumerate({"prompt": prompt} if isinstance(prompt, str) else prompt for prompt in prompts)
    while chunk := list(itertools.islice(indexed, decode.size)):
        if all(index in finished for index, _ in chunk):
            continue
        read = {index: read_prompt(record, index, vocabulary, model.encoder_decoder) for index, record in chunk}
        ids = {index: row for index, (_, row) in read.items() if row}
        results = continue_prompts(decode, params, vocabulary, options.seed, make_batch, ids)
        yield from (read[index][0] | results.get(index, {}) for index, _ in chunk if index not in finished)


def continue_prompts(
    decode: "ShardedFunction",
    params: Params,
    vocabulary: Vocabulary,
    seed: int,
    make_batch: Callable[[Sequence[Sequence[int]]], dict[str, np.ndarray]],
    ids: Mapping[int, Sequence[int]],
) -> dict[int, dict[str, Any]]:
    """The completions of prompts by index; those that are too long for the model have an "error".

    Raises:
      ValueError: the model cannot continue prompts of one token either.
    """
    left = dict(ids)
    results: dict[int, dict[str, Any]] = {}
    while left:
        batch = make_batch(list(left.values()))
        lengths = {index: round_up(len(row), BUCKET) for index, row in left.items()}
        length = max(lengths.values())
        try:
            generated = decode(params, batch | {"keys": row_keys(seed, list(left))})
        except ValueError as error:  # raised while tracing, so it depends on the length alone
            decode.check(params, make_batch([[0]] * decode.size) | {"keys": row_keys(seed, [0] * decode.size)})
            message = str(error)
        except (jax.errors.JaxRuntimeError, MemoryError) as error:
            if length == BUCKET or not (isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error)):
                raise
            message = (
                f"{decode.size} prompts of {length} tokens need too much memory; lower batch_size or shorten this one"
            )
        else:
            return results | {index: completion(vocabulary, generated, row) for row, index in enumerate(left)}
        results |= {index: {"error": message} for index in left if lengths[index] == length}
        left = {index: row for index, row in left.items() if index not in results}
    return results


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


def check_generates(model: Model) -> None:
    """Checks that a model generates text.

    Raises:
      ValueError: it has no decoder.
    """
    if "decoder" not in model.sides:
        raise ValueError(
            f"the model ({type(model).__name__}) has no decoder, so it neither generates text nor scores continuations; use a "
            "decoder-only or encoder-decoder model (`t5x_like eval` without --tasks gives the loss of an encoder)"
        )


@dataclasses.dataclass(frozen=True)
class ShardedFunction:
    """Jits `function(params, batch)` and applies it to rows on the host; every host gets the results of all rows.

    Rows are sharded over the mesh in batches of `size`: `batch_size` rounded up to a multiple of the batch shards.
    """

    function: Callable[[Params, dict[str, Any]], Any]
    batch_size: int
    mesh: Mesh
    rules: partitioning.Rules = partitioning.RULES
    jitted: Any = dataclasses.field(init=False, repr=False, compare=False)
    products: dict[tuple, int] = dataclasses.field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        replicated = NamedSharding(self.mesh, PartitionSpec())
        object.__setattr__(self, "jitted", jax.jit(self.function, out_shardings=replicated))

    @property
    def size(self) -> int:
        """Rows per batch."""
        sharding = partitioning.batch_sharding(self.mesh, self.rules)
        return round_up(self.batch_size, self.mesh.size // sharding.shard_shape((self.mesh.size,))[0])

    def check(self, params: Params, batch: dict[str, np.ndarray]) -> None:
        """Traces the function without compiling it, and so raises what it raises."""
        with partitioning.on(self.mesh, self.rules):
            jax.eval_shape(self.function, params, batch)

    def largest_product(self, params: Params, batch: dict[str, jax.Array]) -> int:
        """Bytes of the largest product of the traced function, found once for every shape of `batch`."""
        shapes = tuple((name, x.shape) for name, x in batch.items())
        if shapes not in self.products:
            self.products[shapes] = runtime_memory.largest_product(self.jitted.trace(params, batch).jaxpr.jaxpr)
        return self.products[shapes]

    def __call__(self, params: Params, batch: dict[str, np.ndarray]) -> Any:
        """Results for up to `size` rows; a smaller batch is padded with copies of its first row.

        Raises:
          MemoryError: on CPU, if attention scores, of which there are two copies, exceed the free memory.
        """
        count, size = len(next(iter(batch.values()))), self.size
        index_B = np.arange(size) * (np.arange(size) < count)
        with partitioning.on(self.mesh, self.rules):
            placed = partitioning.global_batch(
                lambda start, stop: {name: x[index_B[start:stop]] for name, x in batch.items()},
                size,
                partitioning.batch_sharding(self.mesh, self.rules),
            )
            # Several processes must agree, and other devices raise RESOURCE_EXHAUSTED themselves.
            if self.mesh.devices.flat[0].platform == "cpu" and jax.process_count() == 1:
                runtime_memory.check_fits(self.largest_product(params, placed))
            results = jax.device_get(self.jitted(params, placed))
        return jax.tree.map(lambda x: x[:count], results)


def make_decode_fn(
    model: Model,
    vocabulary: Vocabulary,
    sampler: Sampler | BeamSearch,
    max_new_tokens: int,
    processors: Sequence[Processor] = (),
    samples: int = 1,
    proposer: Proposer | None = None,
) -> Callable[[Params, dict[str, Any]], Generated | Beams | Speculated]:
    """Returns a function (params, batch with random `keys` [B]) -> `Generated`, to be jitted.

    It returns `Beams` by beam search, and `Speculated` with a proposer. With a draft model, params are {"model", "draft"}: the
    parameters of both.
    """

    def decode(params: Params, batch: dict[str, Any]) -> Generated | Beams | Speculated:
        prompts = {name: x for name, x in batch.items() if name != "keys"}
        stops = vocabulary.stop_ids
        if isinstance(sampler, BeamSearch):
            found = beams.search(model, params, prompts, sampler, max_new_tokens, stops, processors)
            return jax.tree.map(lambda x_BK: x_BK[:, : sampler.returned], found)
        keys = batch["keys"]
        if proposer is None:
            return generate(model, params, prompts, keys, sampler, max_new_tokens, stops, processors, samples)
        guesser = proposer
        if isinstance(proposer, Draft):
            params, guesser = params["model"], dataclasses.replace(proposer, params=params["draft"])
        return speculate(model, params, prompts, keys, sampler, max_new_tokens, stops, guesser, processors, samples)

    return decode


def row_keys(seed: int, *numbers: Sequence[int]) -> np.ndarray:
    """Random keys, one per row: the key of `seed` with each of the row's numbers folded in, one after the other."""
    key = jax.random.PRNGKey(seed)
    keys = jnp.broadcast_to(key, (len(numbers[0]), *key.shape))
    for number_B in numbers:
        keys = jax.vmap(jax.random.fold_in)(keys, np.asarray(number_B))
    return np.asarray(keys)


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
