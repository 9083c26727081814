"""The architectures. `model.apply({"params": params}, batch, train) -> logits_BLV`; see `t5x_like.types.Model`.

`hidden` and `logits` are the two halves of `__call__`, so that a loss may apply the head to one chunk of the sequence at a
time. With `decode_length` a decoder appends its tokens to the `cache` collection, which holds that many per row and has a length
per row: padding (segment 0) is not appended. The first call takes the prompts and alone reads `encoder_*`. `cache_format` is how
keys and values are stored there: as they are, or as what a function such as `quantized.vectors_to_int8` returns for them.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like.models import heads
from t5x_like.models.context import Context, TokenInfo, append_to_cache, token_info
from t5x_like.models.linear import Initializer, with_axes

Batch = Mapping[str, jax.Array]


def make_decoder_context(
    module: nn.Module,
    batch: Batch,
    decode_length: int | None,
    train: bool,
    cache_format: Callable | None,
    virtual: int = 0,
) -> Context:
    """Returns the decoder's context; its keys are the batch's own tokens, or in decoding those of the cache."""
    queries = token_info(batch, "decoder", virtual)
    if decode_length is None:
        return Context(queries, queries, train=train, virtual=virtual)
    keys, index_BL = append_to_cache(module, queries, decode_length)
    return Context(queries, keys, cache_index_BL=index_BL, train=train, cache_format=cache_format, virtual=virtual)


class DecoderOnly(nn.Module):
    """A causal (or prefix) language model: GPT, LLaMA, PaLM, Mixtral, ...

    `virtual_tokens` are those before every segment whose keys and values are parameters of self-attention (`attention`). A batch
    with `decoder_input_vectors` [B, L, D] in place of tokens is read without them: see `t5x_like.peft.prompt`.
    """

    embed: nn.Module
    decoder: nn.Module
    head: nn.Module
    cache_format: Callable | None = None
    virtual_tokens: int = 0
    encoder_decoder = False
    sides = ("decoder",)
    outputs = ("tokens",)
    extra_features = ("decoder_prefix",)

    @property
    def vocab_size(self) -> int:
        """The number of rows of the embedding table."""
        return self.embed.vocab_size

    def __call__(self, batch: Batch, train: bool = False, decode_length: int | None = None) -> jax.Array:
        return self.logits(self.hidden(batch, train, decode_length))

    @nn.compact
    def hidden(self, batch: Batch, train: bool = False, decode_length: int | None = None) -> jax.Array:
        """Returns the decoder's output [B, L, D]."""
        vectors_BLD = batch.get("decoder_input_vectors")
        virtual = self.virtual_tokens if vectors_BLD is None else 0
        ctx = make_decoder_context(self, batch, decode_length, train, self.cache_format, virtual)
        return self.decoder(self.embed(batch["decoder_input_tokens"]) if vectors_BLD is None else vectors_BLD, ctx)

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        """Applies the head: [B, L, D] -> [B, L, V]."""
        return self.head(x_BLD, self.embed.table_VD)


class EncoderOnly(nn.Module):
    """A bidirectional encoder with a head over the vocabulary: BERT, RoBERTa, ELECTRA, ...

    `pooler` and `classifier` read a row as a whole (BERT's next sentence), see `pool` and `classify`. `prompt` puts learned
    vectors before the input (`prompts.Prompt`), `virtual_tokens` keys and values before those of self-attention (`attention`).
    """

    embed: nn.Module
    encoder: nn.Module
    head: Callable
    token_types: nn.Module | None = None
    pooler: nn.Module | None = None
    classifier: nn.Module | None = None
    prompt: nn.Module | None = None
    virtual_tokens: int = 0
    encoder_decoder = False
    sides = ("encoder",)

    @property
    def vocab_size(self) -> int:
        """The number of rows of the embedding table."""
        return self.embed.vocab_size

    @property
    def extra_features(self) -> tuple[str, ...]:
        """The token types, if there are several."""
        several = self.token_types is not None and self.token_types.vocab_size > 1
        return ("encoder_token_types",) * several

    @property
    def outputs(self) -> tuple[str, ...]:
        """What the head, and the pooler with the classifier, compute."""
        over_vocabulary = not isinstance(self.head, heads.Detector) and self.head is not heads.states
        classifies = self.pooler is not None and self.classifier is not None
        return ("tokens",) * over_vocabulary + ("classes",) * classifies

    def __call__(self, batch: Batch, train: bool = False) -> jax.Array:
        if self.is_initializing() and (self.pooler or self.classifier) is not None:
            self.classify(batch)
        return self.logits(self.hidden(batch, train))

    def hidden(self, batch: Batch, train: bool = False) -> jax.Array:
        """Returns the encoder's output [B, L, D]."""
        x_BLD = self.embed(batch["encoder_input_tokens"])
        queries, before = token_info(batch, "encoder", self.virtual_tokens), 0
        if self.prompt is not None:
            before = self.prompt.tokens
            x_BLD, queries = self.prompt(x_BLD, queries)
        if self.token_types is not None:
            types_BL = batch.get("encoder_token_types", jnp.zeros_like(batch["encoder_input_tokens"]))
            x_BLD += self.token_types(jnp.pad(types_BL, ((0, 0), (before, 0))))
        ctx = Context(queries, queries, train=train, virtual=self.virtual_tokens, contiguous=self.prompt is None)
        return self.encoder(x_BLD, ctx)[:, before:]

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        """Applies the head: [B, L, D] -> [B, L, V]."""
        return self.head(x_BLD, self.embed.table_VD)

    def pool(self, batch: Batch, train: bool = False) -> jax.Array:
        """Returns one vector per row [B, D].

        Raises:
          ValueError: the model has no pooler.
        """
        if self.pooler is None:
            raise ValueError("EncoderOnly.pooler=None, but pool and classify need one; set EncoderOnly.pooler")
        return self.pooler(self.hidden(batch, train))

    def classify(self, batch: Batch, train: bool = False) -> jax.Array:
        """Returns class logits [B, C] (BERT: C = 2, next sentence or not), or without a classifier the result of `pool`.

        Raises:
          ValueError: the model has no pooler.
        """
        x_BD = self.pool(batch, train)
        return x_BD if self.classifier is None else self.classifier(x_BD)


class TwoStream(nn.Module):
    """XLNet (Yang et al. 2019): an encoder that predicts tokens in any order.

    `encoder_order` [B, L], the rank at which each position is predicted, adds a second stream of queries, which have a
    position but no token and see the tokens of lower rank. The tokens with the lowest rank of their segment are context and
    are not predicted: their queries see no token and their logits are meaningless. Without an order every token is seen, as
    in fine-tuning.
    """

    embed: nn.Module
    encoder: nn.Module
    head: nn.Module
    mask_init: Initializer = nn.initializers.normal(0.02)
    encoder_decoder = False
    sides = ("encoder",)
    outputs = ("tokens",)
    extra_features = ("encoder_token_types", "encoder_order")

    @property
    def vocab_size(self) -> int:
        """The number of rows of the embedding table."""
        return self.embed.vocab_size

    def setup(self) -> None:
        init = with_axes(self.mask_init, ("norm",))
        self.mask = self.param("mask", init, (self.embed.width,))

    def __call__(self, batch: Batch, train: bool = False) -> jax.Array:
        return self.logits(self.hidden(batch, train))

    def hidden(self, batch: Batch, train: bool = False) -> jax.Array:
        """Returns the encoder's output [B, L, D]: of the second stream if the batch has an order."""
        x_BLD, content = self.embed(batch["encoder_input_tokens"]), token_info(batch, "encoder")
        content = content.replace(types_BL=batch.get("encoder_token_types"))
        if "encoder_order" not in batch:
            return self.encoder(x_BLD, Context(content, content, train=train))
        order_BL = 2 * batch["encoder_order"]
        content = content.replace(order_BL=order_BL)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), content, content.replace(order_BL=order_BL - 1))
        mask_BLD = jnp.broadcast_to(self.mask.astype(x_BLD.dtype), x_BLD.shape)
        x_BLD = self.encoder(jnp.concatenate([x_BLD, mask_BLD], axis=1), Context(both, content, train=train))
        return x_BLD[:, order_BL.shape[1] :]

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        """Applies the head: [B, L, D] -> [B, L, V]."""
        return self.head(x_BLD, self.embed.table_VD)


class EncoderDecoder(nn.Module):
    """An encoder and a causal decoder that attends to its output, with one embedding for both: T5, Switch, ...

    `prompt` puts learned vectors before the encoder's input (`prompts.Prompt`), which the decoder attends to as well;
    `virtual_tokens` are keys and values before those of the decoder's self-attention (`attention`).
    """

    embed: nn.Module
    encoder: nn.Module
    decoder: nn.Module
    head: nn.Module
    cache_format: Callable | None = None
    prompt: nn.Module | None = None
    virtual_tokens: int = 0
    encoder_decoder = True
    sides = ("encoder", "decoder")
    outputs = ("tokens",)
    extra_features = ()

    @property
    def vocab_size(self) -> int:
        """The number of rows of the embedding table."""
        return self.embed.vocab_size

    def __call__(self, batch: Batch, train: bool = False, decode_length: int | None = None) -> jax.Array:
        return self.logits(self.hidden(batch, train, decode_length))

    @nn.compact
    def hidden(self, batch: Batch, train: bool = False, decode_length: int | None = None) -> jax.Array:
        """Returns the decoder's output [B, L, D]."""
        memory_BMD, memory = self.encode(batch, train, decode_length)
        ctx = make_decoder_context(self, batch, decode_length, train, self.cache_format, self.virtual_tokens)
        ctx = ctx.replace(memory_BMD=memory_BMD, memory=memory)
        return self.decoder(self.embed(batch["decoder_input_tokens"]), ctx)

    def encode(self, batch: Batch, train: bool, decode_length: int | None) -> tuple[jax.Array | None, TokenInfo]:
        """Returns the encoder's output and its token information; the output is None in a decoding step, where it is cached."""
        if "encoder_input_tokens" not in batch:
            return None, self.get_variable("cache", "memory")
        memory = token_info(batch, "encoder")
        x_BMD = self.embed(batch["encoder_input_tokens"])
        if self.prompt is not None:
            x_BMD, memory = self.prompt(x_BMD, memory)
        if decode_length is not None:
            self.put_variable("cache", "memory", memory)
        return self.encoder(x_BMD, Context(memory, memory, train=train, contiguous=self.prompt is None)), memory

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        """Applies the head: [B, L, D] -> [B, L, V]."""
        return self.head(x_BLD, self.embed.table_VD)
