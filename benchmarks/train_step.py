"""The train step against a minimal hand-written JAX step of the same mathematics, run alternately in one process.

Decoder-only, width 512, 8 layers, 8 heads x 64, gated MLP 2048, vocabulary 32128 untied, batch 8 x 256, float32, AdamW,
no rematerialisation. The hand-written step does this and nothing else.
"""

import argparse
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import report
from t5x_like import optimizers, parameters, partitioning
from t5x_like.models import architectures, attention, blocks, heads, linear, mlp, positions, stack
from t5x_like.objectives import lm
from t5x_like.parameters import Freeze
from t5x_like.precision import Precision
from t5x_like.training import state as train_state
from t5x_like.training.step import TrainStep, jit_step
from t5x_like.types import Params

Batch = Mapping[str, Any]

WIDTH, LAYERS, HEADS, HEAD_DIM, MLP_DIM, VOCAB = 512, 8, 8, 64, 2048, 32128
LEARNING_RATE, B1, B2, EPSILON, WEIGHT_DECAY = 1e-3, 0.9, 0.95, 1e-8, 0.1


def build_model() -> nn.Module:
    """Builds the decoder from t5x_like's blocks."""
    block = blocks.Block(
        mixer=attention.SelfAttention(num_heads=HEADS, head_dim=HEAD_DIM),
        mlp=mlp.Mlp(hidden_dim=MLP_DIM, activation=nn.silu, gated=True),
    )
    decoder = stack.Stack(block=block, repeats=LAYERS, position=positions.Rope(HEAD_DIM), scan=False)
    return architectures.DecoderOnly(linear.Embed(VOCAB, WIDTH), decoder, heads.Untied())


def build_step(batch: Batch) -> tuple[Callable, Any]:
    """Returns (step, state) of t5x_like on one device."""
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in batch.items()}
    optimizer = optimizers.adamw(LEARNING_RATE, b1=B1, b2=B2, eps=EPSILON, weight_decay=WEIGHT_DECAY, clip_norm=None)
    model, precision = build_model(), Precision()
    layout = train_state.layout(model, optimizer, shapes, mesh, precision=precision)
    step = jit_step(
        TrainStep(model.apply, lm.LanguageModel(), optimizer, parameters.view(Freeze(), precision), 1),
        layout,
        partitioning.batch_sharding(mesh),
        mesh,
    )
    return lambda state, batch: step(state, batch, {}), layout.create(0)


def convert_params(params: Params) -> dict[str, Any]:
    """Converts parameters to the hand-written layout: 2-d matrices, a list of layers, the head as [D, V]."""
    inner = HEADS * HEAD_DIM

    def layer(p: Params) -> dict[str, jax.Array]:
        attention_in = {name[0]: p["mixer"][name]["kernel"].reshape(WIDTH, inner) for name in ("query", "key", "value")}
        dense = {name: p["mlp"][name]["kernel"] for name in ("gate", "up", "down")}
        norms = {"norm1": p["mixer_norm"]["scale"], "norm2": p["mlp_norm"]["scale"]}
        return attention_in | dense | norms | {"o": p["mixer"]["out"]["kernel"].reshape(inner, WIDTH)}

    tree = {
        "embed": params["embed"]["table"],
        "head": params["head"]["table"].T,
        "norm": params["decoder"]["norm"]["scale"],
        "layers": [layer(params["decoder"][f"layer_{i}"]) for i in range(LAYERS)],
    }
    return jax.tree.map(jnp.copy, tree)


def random_params(key: jax.Array) -> dict[str, Any]:
    """Returns random parameters in the hand-written layout."""
    keys = iter(jax.random.split(key, 2 + 7 * LAYERS))

    def matrix(rows: int, columns: int) -> jax.Array:
        return jax.random.normal(next(keys), (rows, columns)) / np.sqrt(rows)

    inner = HEADS * HEAD_DIM
    shapes = {"q": (WIDTH, inner), "k": (WIDTH, inner), "v": (WIDTH, inner), "o": (inner, WIDTH)}
    shapes |= {"gate": (WIDTH, MLP_DIM), "up": (WIDTH, MLP_DIM), "down": (MLP_DIM, WIDTH)}
    norms = {"norm1": jnp.ones(WIDTH), "norm2": jnp.ones(WIDTH)}
    layers = [{name: matrix(*shape) for name, shape in shapes.items()} | norms for _ in range(LAYERS)]
    return {"embed": matrix(VOCAB, WIDTH), "head": matrix(WIDTH, VOCAB), "norm": jnp.ones(WIDTH), "layers": layers}


def hand_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """RMSNorm."""
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6) * scale


def hand_rope(x: jax.Array, positions_BL: jax.Array) -> jax.Array:
    """Rotary positions."""
    frequencies = 1e4 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    angle = (positions_BL[..., None] * frequencies)[:, :, None]
    a, b = jnp.split(x, 2, -1)
    return jnp.concatenate([a * jnp.cos(angle) - b * jnp.sin(angle), b * jnp.cos(angle) + a * jnp.sin(angle)], -1)


def hand_loss(params: Params, batch: Batch) -> jax.Array:
    """The mean cross-entropy of the decoder."""
    rows, length = batch["decoder_input_tokens"].shape
    segments = batch["decoder_segment_ids"]
    mask = jnp.tril(jnp.ones((length, length), bool)) & (segments[:, :, None] == segments[:, None])
    x = params["embed"][batch["decoder_input_tokens"]]
    for p in params["layers"]:
        h = hand_norm(x, p["norm1"])
        q, k, v = ((h @ p[name]).reshape(rows, length, HEADS, HEAD_DIM) for name in "qkv")
        q, k = hand_rope(q, batch["decoder_positions"]), hand_rope(k, batch["decoder_positions"])
        scores = jnp.einsum("blhk,bmhk->bhlm", q, k) / np.sqrt(HEAD_DIM)
        probs = jax.nn.softmax(jnp.where(mask[:, None], scores, -1e30))
        x += jnp.einsum("bhlm,bmhk->blhk", probs, v).reshape(rows, length, -1) @ p["o"]
        h = hand_norm(x, p["norm2"])
        x += (jax.nn.silu(h @ p["gate"]) * (h @ p["up"])) @ p["down"]
    logps = jax.nn.log_softmax(hand_norm(x, params["norm"]) @ params["head"])
    target = jnp.take_along_axis(logps, batch["decoder_target_tokens"][..., None], -1)[..., 0]
    weights = batch["decoder_loss_weights"]
    return -jnp.sum(target * weights) / jnp.sum(weights)


def hand_step(state: tuple, batch: Batch) -> tuple[tuple, jax.Array]:
    """One AdamW step, with weight decay on matrices only."""
    params, m, v, t = state
    loss, grads = jax.value_and_grad(hand_loss)(params, batch)
    t += 1
    m = jax.tree.map(lambda m, g: B1 * m + (1 - B1) * g, m, grads)
    v = jax.tree.map(lambda v, g: B2 * v + (1 - B2) * g * g, v, grads)

    def update(p, m, v):
        step = (m / (1 - B1**t)) / (jnp.sqrt(v / (1 - B2**t)) + EPSILON)
        return p - LEARNING_RATE * (step + (WEIGHT_DECAY * p if p.ndim > 1 else 0.0))

    return (jax.tree.map(update, params, m, v), m, v, t), loss


def random_batch(rows: int, length: int) -> dict[str, np.ndarray]:
    """Returns a batch of random tokens."""
    tokens = np.random.default_rng(0).integers(3, VOCAB, (rows, length + 1), dtype=np.int32)
    return {
        "decoder_input_tokens": tokens[:, :-1],
        "decoder_target_tokens": tokens[:, 1:],
        "decoder_positions": np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length)).copy(),
        "decoder_segment_ids": np.ones((rows, length), np.int32),
        "decoder_loss_weights": np.ones((rows, length), np.float32),
    }


class Steps:
    """Runs one train step per call, and returns when its loss is on the host."""

    def __init__(self, step: Callable, state: Any, batch: Batch, loss: Callable[[Any], jax.Array]) -> None:
        self.step, self.state, self.batch, self.loss = step, state, batch, loss
        self.losses: list[float] = []

    def __call__(self) -> None:
        self.state, out = self.step(self.state, self.batch)
        self.losses.append(float(self.loss(out)))
        jax.block_until_ready(self.state)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    args = parser.parse_args()
    batch = jax.device_put(random_batch(args.rows, args.length))

    step, state = build_step(batch)
    params = convert_params(state.params)
    zeros = jax.tree.map(jnp.zeros_like, params)
    hand = Steps(
        jax.jit(hand_step, donate_argnums=0), (params, zeros, jax.tree.map(jnp.copy, zeros), 0.0), batch, lambda x: x
    )
    ours = Steps(step, state, batch, lambda metrics: metrics["loss"][0] / metrics["loss"][1])

    seconds = report.time_interleaved({"ours": ours, "hand-written": hand}, args.rounds)
    wall = {name: [w for w, _ in times] for name, times in seconds.items()}
    cpu = {name: [c for _, c in times] for name, times in seconds.items()}
    ratios = [a / b for a, b in zip(wall["ours"], wall["hand-written"], strict=True)]
    rows = {
        name: {
            "wall s": report.summarize(wall[name])["median"],
            "min": min(wall[name]),
            "max": max(wall[name]),
            "CPU s": report.summarize(cpu[name])["median"],
            "first loss": side.losses[0],
            "last loss": side.losses[-1],
        }
        for name, side in (("ours", ours), ("hand-written", hand))
    }
    np.testing.assert_allclose(ours.losses, hand.losses, rtol=1e-3, err_msg="the two steps compute different losses")
    report.print_table(f"train step, batch {args.rows} x {args.length}", rows)
    report.print_json(
        ratio=report.summarize(wall["ours"])["median"] / report.summarize(wall["hand-written"])["median"],
        ratio_pairs=report.summarize(ratios),
        ratio_cpu=report.summarize(cpu["ours"])["median"] / report.summarize(cpu["hand-written"])["median"],
        **report.summarize(wall["ours"]),
    )


if __name__ == "__main__":
    main()
