"""ELECTRA (Clark et al. 2020, arXiv:2003.10555): a generator fills masks in, a discriminator finds what it filled in."""

import jax
from flax import linen as nn

from t5x_like.models.architectures import EncoderOnly


class Electra(nn.Module):
    """Two encoders that look words up in one table, `embed`, whatever table they were given themselves.

    The generator's head is over the vocabulary, the discriminator's gives one logit a token. Called as a model, it is the
    discriminator on the batch as it stands, which is what is kept after pretraining.
    """

    embed: nn.Module
    generator: EncoderOnly
    discriminator: EncoderOnly
    encoder_decoder = False

    @property
    def vocab_size(self) -> int:
        """The number of rows of the embedding table."""
        return self.embed.vocab_size

    def __post_init__(self):
        for name in ("generator", "discriminator"):
            body = getattr(self, name)
            # Built by gin, each has a table of its own; inside a bound module the one instance is there already.
            if body.parent is None and body.embed is not self.embed:
                object.__setattr__(self, name, body.clone(parent=None, embed=self.embed))
        super().__post_init__()

    def __call__(self, batch, train: bool = False) -> jax.Array:
        if self.is_initializing():
            self.generator(batch)
        return self.discriminator(batch, train)

    def generated(self, batch, train: bool = False) -> jax.Array:
        """The generator's logits [B, L, V]."""
        return self.generator(batch, train)

    def hidden(self, batch, train: bool = False) -> jax.Array:
        return self.discriminator.hidden(batch, train)

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        return self.discriminator.logits(x_BLD)
