"""What each token of a text costs a model: in-context learning is that later tokens cost less."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.objectives.tokens import token_logps


@functools.partial(jax.jit, static_argnums=0)
def token_results(apply: Callable, params, batch) -> tuple[jax.Array, jax.Array]:
    """(log-probability in nats, whether it is the likeliest token), [B, L] each, of a decoder's targets.

    A model that answers greedily gives an answer exactly when every token of it is the likeliest one.
    """
    logits_BLV = apply({"params": params}, batch)
    targets_BL = batch["decoder_target_tokens"]
    return token_logps(logits_BLV, targets_BL)[0], jnp.argmax(logits_BLV, axis=-1) == targets_BL


def loss_by_copy(logp_BL: np.ndarray, period_B: np.ndarray) -> np.ndarray:
    """Mean loss of a row's tokens by copy [C], the text of `period_B` tokens coming over and over; whole copies alone.

    A copy's first token is left out: where the text ends cannot be known before it comes again.
    """
    length = logp_BL.shape[1]
    place_L = np.arange(length)
    copy_BL, within_BL = np.divmod(place_L, period_B[:, None])
    whole_BL = (copy_BL < (length // period_B)[:, None]) & (within_BL > 0)
    count = int((length // period_B).max())
    return np.array([-logp_BL[whole_BL & (copy_BL == copy)].mean() for copy in range(count)])


def in_context_score(logp_BL: np.ndarray, period_B: np.ndarray) -> float:
    """Nats per token that a text costs less when it comes the second time (Olsson et al. 2022: later minus earlier loss).

    0 without in-context learning; the entropy of a token for perfect copying.

    Raises:
      ValueError: rows that are too short for a second copy.
    """
    if (2 * period_B > logp_BL.shape[1]).any():
        raise ValueError(
            f"texts of up to {period_B.max()} tokens do not come twice in rows of {logp_BL.shape[1]}; lengthen the rows"
        )
    first, second, *_ = loss_by_copy(logp_BL, period_B)
    return float(first - second)
