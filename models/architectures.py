"""The three architectures. `model.apply({"params": params}, batch, train=...) -> logits_BLV`.

`hidden` and `logits` are the two halves of `__call__`, so that a loss may apply the head to a piece of the sequence at
a time. With `decode_length` a decoder reads and writes the `cache` collection, which holds that many slots a row: the
first call takes the prompts (padding has segment 0), later ones a token per row. `encoder_*` go into the first call only.
"""

import jax
from flax import linen as nn

from models.context import Context, Slots, cached_keys, slots


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

    def __call__(self, batch, train: bool = False, decode_length: int | None = None) -> jax.Array:
        return self.logits(self.hidden(batch, train, decode_length))

    @nn.compact
    def hidden(self, batch, train: bool = False, decode_length: int | None = None) -> jax.Array:
        ctx = decoder_context(self, batch, decode_length, train)
        return self.decoder(self.embed(batch["decoder_input_tokens"]), ctx)

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        return self.head(x_BLD, self.embed.table_VD)


class EncoderOnly(nn.Module):
    """A bidirectional encoder with a head over the vocabulary: BERT, RoBERTa, ..."""

    embed: nn.Module
    encoder: nn.Module
    head: nn.Module
    token_types: nn.Module | None = None

    def __call__(self, batch, train: bool = False) -> jax.Array:
        return self.logits(self.hidden(batch, train))

    def hidden(self, batch, train: bool = False) -> jax.Array:
        x_BLD = self.embed(batch["encoder_input_tokens"])
        if self.token_types is not None:
            x_BLD += self.token_types(batch["encoder_token_types"])
        queries = slots(batch, "encoder")
        return self.encoder(x_BLD, Context(queries, queries, train=train))

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        return self.head(x_BLD, self.embed.table_VD)


class EncoderDecoder(nn.Module):
    """An encoder and a causal decoder that looks at its output, one embedding for both: T5, Switch, ..."""

    embed: nn.Module
    encoder: nn.Module
    decoder: nn.Module
    head: nn.Module

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
