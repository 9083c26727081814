"""What a batch holds: the names (T5X's) of its arrays, each of shape [B, L], int32 unless said.

{encoder,decoder}_input_tokens   what the model reads; decoder inputs are the targets shifted right per segment
{encoder,decoder}_positions      0, 1, 2, ... in every segment
{encoder,decoder}_segment_ids    1, 2, 3, ...; 0 is padding, and nothing else is
{encoder,decoder}_target_tokens  what it is to predict
{encoder,decoder}_loss_weights   float32; 0 where a target does not count
decoder_prefix                   1 where attention is bidirectional (prefix LM)
encoder_token_types              BERT's sentence A (0) or B (1)
encoder_order                    the rank at which a token is predicted (permutation LM)
encoder_labels                   the class of a row as a whole, [B, 1] (next sentence, sentence order)
task_one_hot                     float32 [B, T], 1 at the row's task in a mixture of T
"""

from collections.abc import Mapping

import jax
import numpy as np

SIDES = ("encoder", "decoder")
FEATURES = (
    *(f"{side}_{what}" for side in SIDES for what in ("input_tokens", "positions", "segment_ids")),
    *(f"{side}_{what}" for side in SIDES for what in ("target_tokens", "loss_weights")),
    "decoder_prefix",
    "encoder_token_types",
    "encoder_order",
    "encoder_labels",
    "task_one_hot",
)


def abstract(rows, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes and dtypes of a batch of `batch_size` of these rows.

    Raises:
      ValueError: the rows hold no row, or an array whose name is none of FEATURES.
    """
    if len(rows) == 0:
        raise ValueError(f"{rows} holds no row: its data is shorter than one row; shorten the lengths")
    one = rows.fetch(np.zeros(1, np.int64), np.zeros(1, np.int64), 0)
    if unknown := sorted(set(one) - set(FEATURES)):
        raise ValueError(f"a batch has no {unknown}; the names are {', '.join(FEATURES)}")
    return {name: jax.ShapeDtypeStruct((batch_size, *x.shape[1:]), x.dtype) for name, x in one.items()}


def real_tokens(batch: Mapping[str, np.ndarray]) -> int:
    """Tokens that are not padding, both sides together."""
    return sum(int(np.count_nonzero(batch[name])) for name in batch if name.endswith("_segment_ids"))
