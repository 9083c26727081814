"""The models of the packaged gin files for tests: sizes, batches and parameter shapes."""

from pathlib import Path

import jax
import numpy as np
from flax import linen as nn

from t5x_like.cli.gin import runtime

CONFIGS = Path(__file__).resolve().parents[1] / "gin_configs"
SIZES = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob("sizes/*/*.gin"))
TINY = [size for size in SIZES if size.endswith("/tiny.gin")]


def family_of(size: str) -> str:
    """Returns FAMILY of `sizes/FAMILY/SIZE.gin`."""
    return size.split("/")[1]


def model_of(gin_file: str, *overrides: str) -> nn.Module:
    """Builds MODEL of a gin file."""
    return runtime.parse([gin_file], overrides).evaluate("%MODEL")


def batch_of(rows: int, length: int, vocab_size: int, token_types: int = 2, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns one segment per row for both sides; encoder rows are pairs of texts, predicted in a random order (XLNet)."""
    rng, batch = np.random.RandomState(seed), {}
    for side in ("encoder", "decoder"):
        batch[f"{side}_input_tokens"] = rng.randint(3, vocab_size, (rows, length)).astype(np.int32)
        batch[f"{side}_positions"] = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
        batch[f"{side}_segment_ids"] = np.ones((rows, length), np.int32)
    batch["targets"] = rng.randint(3, vocab_size, (rows, length)).astype(np.int32)
    batch["encoder_token_types"] = batch["encoder_positions"] * token_types // length
    batch["encoder_order"] = np.stack([rng.permutation(length) for _ in range(rows)]).astype(np.int32)
    return batch


def batch_for(model: nn.Module, rows: int, length: int = 8, vocab_size: int = 384) -> dict[str, np.ndarray]:
    """Returns `batch_of` with the number of token types of the model (RoBERTa: one)."""
    types = getattr(model, "token_types", None)
    return batch_of(rows, length, vocab_size, 2 if types is None else types.vocab_size)


def shapes(model: nn.Module):
    """Returns the boxed parameter shapes of a model without computing anything."""
    return jax.eval_shape(model.init, jax.random.key(0), batch_of(1, 8, 9))["params"]
