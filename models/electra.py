"""ELECTRA (Clark et al. 2020, arXiv:2003.10555): a generator fills masks in, a discriminator detects the replaced tokens."""

from collections.abc import Mapping

import jax
from flax import linen as nn

from t5x_like.models.architectures import EncoderOnly
from t5x_like.models.heads import Detector


class Electra(nn.Module):
    """Two encoders that share one embedding table, `embed`, which replaces the tables they were built with.

    The generator's head is over the vocabulary, the discriminator's gives one logit per token. Called as a model it is the
    discriminator, which is the part kept after pretraining.
    """

    embed: nn.Module
    generator: EncoderOnly
    discriminator: EncoderOnly
    encoder_decoder = False
    sides = ("encoder",)

    @property
    def vocab_size(self) -> int:
        """The number of rows of the embedding table."""
        return self.embed.vocab_size

    @property
    def extra_features(self) -> tuple[str, ...]:
        """What both encoders read."""
        return tuple(set(self.generator.extra_features) & set(self.discriminator.extra_features))

    @property
    def outputs(self) -> tuple[str, ...]:
        """Logits of replaced tokens, if the heads are a generator's and a discriminator's."""
        fits = "tokens" in self.generator.outputs and isinstance(self.discriminator.head, Detector)
        return ("replaced",) * fits

    def __post_init__(self) -> None:
        for name in ("generator", "discriminator"):
            encoder = getattr(self, name)
            # Encoders built by gin have separate tables; in a bound module they already share this one.
            if encoder.parent is None and encoder.embed is not self.embed:
                object.__setattr__(self, name, encoder.clone(parent=None, embed=self.embed))
        super().__post_init__()

    def __call__(self, batch: Mapping[str, jax.Array], train: bool = False) -> jax.Array:
        if self.is_initializing():
            self.generator(batch)
        return self.discriminator(batch, train)

    def generator_logits(self, batch: Mapping[str, jax.Array], train: bool = False) -> jax.Array:
        """Returns the generator's logits [B, L, V]."""
        return self.generator(batch, train)

    def hidden(self, batch: Mapping[str, jax.Array], train: bool = False) -> jax.Array:
        """Returns the discriminator's hidden states [B, L, D]."""
        return self.discriminator.hidden(batch, train)

    def logits(self, x_BLD: jax.Array) -> jax.Array:
        """Applies the discriminator's head: [B, L, D] -> [B, L, 1]."""
        return self.discriminator.logits(x_BLD)
