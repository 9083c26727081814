"""The three architectures. `model.apply({"params": params}, batch, train=...) -> logits_BLV`.

`hidden` and `logits` are the two halves of `__call__`, so that a loss may apply the head to a piece of the sequence at
a time. With `decode_length` a decoder reads and writes the `cache` collection, which holds that many slots a row: the
first call takes the prompts (padding has segment 0), later ones a token per row. `encoder_*` go into the first call only.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from t5x_like.models.context import Context, Slots, cached_keys, slots
from t5x_like.models.linear import Initializer


def decoder_context(module: nn.Module, batch, decode_length: int | None, train: bool) -> Context:
    """The decoder's context: its own slots as keys, or the cache's in decoding."""
    queries = slots(batch, "decoder")
    if decode_length is None:
        return Context(queries, queries, train=train)
    keys, slot = cached_keys(module, queries, decode_length)
    return Context(queries, keys, slot=slot, train=train)


class DecoderOnly(nn.Module):
    """A causal (or prefix) language model: GPT, LLaMA, PaLM, Mixtral, ..."""

    embed: nn.Module
    decoder: nn.Module
    head: nn.Module
    encoder_decoder = False

    @property
    def vocab_size(self) -> int:
        """The number of rows of the embedding table."""
        return self.embed.vocab_size

    def __call__(self, batch, train: bool = False, decode_length: int | None = None) -> jax.Array:
        return self.logits(self.hidden(batch, train, decode_length))

    @nn.compact
    def hidden(self, batch, train: bool = False, decode_length: int | None = None) -> jax.Array:
        ctx = decoder_context(self, batch, decode_length, train)
        return self.decoder(self.embed(batch["decoder_input_tokens"]), ctx)

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        return self.head(x_BLD, self.embed.table_VD)


class EncoderOnly(nn.Module):
    """A bidirectional encoder with a head over the vocabulary: BERT, RoBERTa, ELECTRA, ...

    `pooler` and `classifier` say something of a row as a whole (BERT's next sentence), by `pooled` and `classified`.
    """

    embed: nn.Module
    encoder: nn.Module
    head: Callable
    token_types: nn.Module | None = None
    pooler: nn.Module | None = None
    classifier: nn.Module | None = None
    encoder_decoder = False

    @property
    def vocab_size(self) -> int:
        """The number of rows of the embedding table."""
        return self.embed.vocab_size

    def __call__(self, batch, train: bool = False) -> jax.Array:
        if self.is_initializing() and (self.pooler or self.classifier) is not None:
            self.classified(batch)
        return self.logits(self.hidden(batch, train))

    def hidden(self, batch, train: bool = False) -> jax.Array:
        x_BLD = self.embed(batch["encoder_input_tokens"])
        if self.token_types is not None:
            types_BL = batch.get("encoder_token_types", jnp.zeros_like(batch["encoder_input_tokens"]))
            x_BLD += self.token_types(types_BL)
        queries = slots(batch, "encoder")
        return self.encoder(x_BLD, Context(queries, queries, train=train))

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        return self.head(x_BLD, self.embed.table_VD)

    def pooled(self, batch, train: bool = False) -> jax.Array:
        """[B, D], one vector a row."""
        return self.pooler(self.hidden(batch, train))

    def classified(self, batch, train: bool = False) -> jax.Array:
        """Logits of the classes [B, C] (C = 2, next sentence or not, in BERT); without a classifier what `pooled` gives."""
        if self.pooler is None:
            raise ValueError("EncoderOnly.classifier classifies what a pooler gives; set EncoderOnly.pooler too")
        x_BD = self.pooled(batch, train)
        return x_BD if self.classifier is None else self.classifier(x_BD)


class TwoStream(nn.Module):
    """XLNet (Yang et al. 2019): an encoder that predicts words in any order.

    `encoder_order` [B, L], the rank at which each position is predicted, adds a second stream: queries that know their
    position but not their word, and see the words of lower rank. What has a segment's lowest rank is context and not to be
    predicted: its queries see no word, and what they give means nothing. Without an order every word is seen, as in
    fine-tuning.
    """

    embed: nn.Module
    encoder: nn.Module
    head: nn.Module
    mask_init: Initializer = nn.initializers.normal(0.02)
    encoder_decoder = False

    @property
    def vocab_size(self) -> int:
        """The number of rows of the embedding table."""
        return self.embed.vocab_size

    def setup(self):
        init = nn.with_logical_partitioning(self.mask_init, ("norm",))
        self.mask = self.param("mask", init, (self.embed.width,))

    def __call__(self, batch, train: bool = False) -> jax.Array:
        return self.logits(self.hidden(batch, train))

    def hidden(self, batch, train: bool = False) -> jax.Array:
        x_BLD, content = self.embed(batch["encoder_input_tokens"]), slots(batch, "encoder")
        content = content.replace(types_BL=batch.get("encoder_token_types"))
        if "encoder_order" not in batch:
            return self.encoder(x_BLD, Context(content, content, train=train))
        order_BL = 2 * batch["encoder_order"]
        content = content.replace(order_BL=order_BL)
        both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), content, content.replace(order_BL=order_BL - 1))
        blind_BLD = jnp.broadcast_to(self.mask.astype(x_BLD.dtype), x_BLD.shape)
        x_BLD = self.encoder(jnp.concatenate([x_BLD, blind_BLD], axis=1), Context(both, content, train=train))
        return x_BLD[:, order_BL.shape[1] :]

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        return self.head(x_BLD, self.embed.table_VD)


class EncoderDecoder(nn.Module):
    """An encoder and a causal decoder that looks at its output, one embedding for both: T5, Switch, ..."""

    embed: nn.Module
    encoder: nn.Module
    decoder: nn.Module
    head: nn.Module
    encoder_decoder = True

    @property
    def vocab_size(self) -> int:
        """The number of rows of the embedding table."""
        return self.embed.vocab_size

    def __call__(self, batch, train: bool = False, decode_length: int | None = None) -> jax.Array:
        return self.logits(self.hidden(batch, train, decode_length))

    @nn.compact
    def hidden(self, batch, train: bool = False, decode_length: int | None = None) -> jax.Array:
        memory_BMD, memory = self.encoded(batch, train, decode_length)
        ctx = decoder_context(self, batch, decode_length, train).replace(memory_BMD=memory_BMD, memory=memory)
        return self.decoder(self.embed(batch["decoder_input_tokens"]), ctx)

    def encoded(self, batch, train: bool, decode_length: int | None) -> tuple[jax.Array | None, Slots]:
        """The encoder's output and its slots; the output is None in a decoding step, which has it in its cache."""
        if "encoder_input_tokens" not in batch:
            return None, self.get_variable("cache", "memory")
        memory = slots(batch, "encoder")
        x_BMD = self.embed(batch["encoder_input_tokens"])
        if decode_length is not None:
            self.put_variable("cache", "memory", memory)
        return self.encoder(x_BMD, Context(memory, memory, train=train)), memory

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        return self.head(x_BLD, self.embed.table_VD)
