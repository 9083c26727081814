"""The results of decoding as records, ready for JSON."""

from typing import Any

import numpy as np

from t5x_like.decoding.beams import Beams
from t5x_like.decoding.loop import Generated
from t5x_like.decoding.speculative import Speculated
from t5x_like.types import Vocabulary


def completion(vocabulary: Vocabulary, generated: Generated | Beams | Speculated, row: int) -> dict[str, Any]:
    """The completion of one row, ready for JSON; an "error" if the model's logits were NaN.

    Several samples are in "samples", the first one in the record itself. A beam search adds its "score", and "beams", all that
    it returns with the best first, if they are several. Speculative decoding adds how many tokens were "proposed", and how many
    of them "accepted", in all samples.
    """
    if isinstance(generated, Speculated):
        record = completion(vocabulary, generated.generated, row)
        counts = {"proposed": generated.proposed_B[row], "accepted": generated.accepted_B[row]}
        return record if "error" in record else record | {name: int(x.sum()) for name, x in counts.items()}
    if isinstance(generated, Generated):
        arrays = generated.tokens_BN[row], generated.log_probs_BN[row], generated.lengths_B[row]
        if arrays[0].ndim == 1:
            return describe(vocabulary, *arrays)
        samples = [describe(vocabulary, *sample) for sample in zip(*arrays, strict=True)]
        return next((sample for sample in samples if "error" in sample), samples[0] | {"samples": samples})
    results = []
    for beam, score in enumerate(generated.scores_BK[row].tolist()):
        if score > -np.inf:
            length = generated.lengths_BK[row, beam]
            found = describe(vocabulary, generated.tokens_BKN[row, beam], generated.log_probs_BKN[row, beam], length)
            results.append(found | {"score": score})
    if not results:
        return {"error": "the logits are NaN; check the checkpoint's weights, or compute in float32"}
    return results[0] | ({"beams": results} if generated.scores_BK.shape[1] > 1 else {})


def describe(vocabulary: Vocabulary, tokens_N: Any, log_probs_N: Any, length: Any) -> dict[str, Any]:
    """The text, tokens and log-probability of generated tokens; an "error" if a log-probability is NaN."""
    tokens = tokens_N[:length].tolist()
    if np.isnan(log_probs_N).any():
        first = int(np.argmax(np.isnan(log_probs_N)))
        return {
            "error": f"the logits of new token {first + 1} are NaN; check the checkpoint's weights, or compute in float32"
        }
    finished = bool(tokens and tokens[-1] in vocabulary.stop_ids)
    return {
        "completion": vocabulary.decode(tokens),
        "tokens": tokens,
        "log_prob": float(log_probs_N.sum()),
        "finished": finished,
        "finish_reason": "stop" if finished else "length",
    }
