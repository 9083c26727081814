"""Tiny models and batches shared by several test files."""

import jax
import numpy as np
from flax import linen as nn

from t5x_like.models import architectures, attention, blocks, heads, linear, masks, mlp, moe, positions, routers, stack
from t5x_like.training import trainer

VOCAB, WIDTH, HEADS, HEAD_DIM = 64, 32, 4, 8


def tower(causal=True, cross=False, experts=False, repeats=2, scan=False, dropout=0.0, position=None) -> stack.Stack:
    """Returns a stack of layers of width 32, two by default."""
    dense = mlp.Mlp(hidden_dim=64, gated=True)
    router = routers.TopK(num_experts=4, top_k=2, load_balance_weight=0.01, z_weight=0.001)
    block = blocks.Block(
        mixer=attention.SelfAttention(HEADS, HEAD_DIM, mask=masks.causal if causal else masks.full),
        cross=attention.CrossAttention(HEADS, HEAD_DIM) if cross else None,
        mlp=moe.Moe(router, 64, gated=True, dispatch=moe.dense) if experts else dense,
        dropout=dropout,
    )
    return stack.Stack(block=block, repeats=repeats, position=position or positions.Rope(HEAD_DIM), scan=scan)


def decoder(**options) -> architectures.DecoderOnly:
    return architectures.DecoderOnly(linear.Embed(VOCAB, WIDTH), tower(**options), heads.Untied())


def encoder_decoder(**options) -> architectures.EncoderDecoder:
    towers = tower(causal=False, **options), tower(cross=True, **options)
    return architectures.EncoderDecoder(linear.Embed(VOCAB, WIDTH), *towers, heads.Tied())


def encoder(**options) -> architectures.EncoderOnly:
    return architectures.EncoderOnly(linear.Embed(VOCAB, WIDTH), tower(causal=False, **options), heads.MaskedLM())


def batch(rows=8, length=12, sides=("decoder",), seed=0) -> dict[str, np.ndarray]:
    """Returns random tokens in rows of two segments (split at the middle) and padding of different lengths."""
    random = np.random.default_rng(seed)
    result = {}
    for side in sides:
        lengths = random.integers(length // 2 + 1, length + 1, rows)
        index = np.arange(length)
        real = index < lengths[:, None]
        segments = np.where(index < length // 2, 1, 2) * real
        starts = np.where(index < length // 2, 0, length // 2)
        result |= {
            f"{side}_input_tokens": random.integers(3, VOCAB, (rows, length)).astype(np.int32),
            f"{side}_target_tokens": random.integers(3, VOCAB, (rows, length)).astype(np.int32),
            f"{side}_positions": ((index - starts) * real).astype(np.int32),
            f"{side}_segment_ids": segments.astype(np.int32),
            f"{side}_loss_weights": real.astype(np.float32),
        }
    return result


def init(model: nn.Module, example, seed=0):
    """Returns unboxed parameters."""
    return nn.unbox(jax.jit(model.init)(jax.random.key(seed), example)["params"])


def train(
    eval_rows=None, evaluations=(), eval_every=500, eval_batches=20, checkpoint_every=500, keep_last=3, **arguments
) -> dict[str, float]:
    """Calls trainer.train with flat arguments instead of groups."""
    evaluation = trainer.Evaluation(eval_rows, evaluations, eval_every, eval_batches)
    checkpointing = trainer.Checkpointing(checkpoint_every, keep_last)
    return trainer.train(evaluation=evaluation, checkpointing=checkpointing, **arguments)
