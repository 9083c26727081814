"""In-context learning: how much less a model's later tokens cost than its earlier ones."""

import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from t5x_like.objectives.tokens import token_logps
from t5x_like.types import Params


@functools.partial(jax.jit, static_argnums=0)
def score_tokens(
    apply: Callable, params: Params, batch: Mapping[str, jax.Array | np.ndarray]
) -> tuple[jax.Array, jax.Array]:
    """Returns (log-probability in nats, whether it is the most likely token), [B, L] each, of a decoder's targets.

    Greedy decoding gives an answer if and only if each of its tokens is the most likely one.
    """
    logits_BLV = apply({"params": params}, batch)
    targets_BL = batch["decoder_target_tokens"]
    return token_logps(logits_BLV, targets_BL)[0], jnp.argmax(logits_BLV, axis=-1) == targets_BL


def loss_by_copy(logp_BL: np.ndarray, period_B: np.ndarray) -> np.ndarray:
    """Returns the mean loss by copy [C] of rows that repeat a text of `period_B` tokens; incomplete copies are left out.

    The first token of each copy is left out: the end of the text cannot be known before it repeats.
    """
    length = logp_BL.shape[1]
    place_L = np.arange(length)
    copy_BL, within_BL = np.divmod(place_L, period_B[:, None])
    scored_BL = (copy_BL < (length // period_B)[:, None]) & (within_BL > 0)
    count = int((length // period_B).max())
    return np.array([-logp_BL[scored_BL & (copy_BL == copy)].mean() for copy in range(count)])


def in_context_score(logp_BL: np.ndarray, period_B: np.ndarray) -> float:
    """Returns how many nats per token less the second copy of a text costs (Olsson et al. 2022: later minus earlier loss).

    It is 0 without in-context learning, and the entropy of a token for perfect copying.

    Raises:
      ValueError: rows are too short for a second copy.
    """
    if (2 * period_B > logp_BL.shape[1]).any():
        raise ValueError(
            f"texts of up to {period_B.max()} tokens do not repeat in rows of {logp_BL.shape[1]}; lengthen the rows"
        )
    first, second, *_ = loss_by_copy(logp_BL, period_B)
    return float(first - second)
