"""Training a 1.2B LLaMA-shaped decoder on one GPU: t5x_like's step against PyTorch's with the same shape, alternately.

Sequence length 2048 with several packed documents per row, bfloat16 products, float32 master weights, AdamW, rows from a
synthetic token cache through the data stream; no TensorFlow. The PyTorch peer is torch.compile with flash attention
(scaled_dot_product_attention, causal), fused AdamW and bfloat16 autocast. First, cuDNN attention is checked against the
reference on packed rows, values and gradients. MFU counts causal attention at half.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs memory too

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

import report
from t5x_like import batches, optimizers, parameters, partitioning
from t5x_like.accounting import flops
from t5x_like.data import rows
from t5x_like.data.cache import token_cache
from t5x_like.data.cache import writer as cache_writer
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.stream import Stream
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.models import architectures, attention, blocks, heads, kernels, linear, mlp, positions, stack
from t5x_like.objectives import lm
from t5x_like.parameters import Freeze
from t5x_like.precision import Precision
from t5x_like.training import loop, state
from t5x_like.training.step import TrainStep, jit_step

WIDTH, LAYERS, HEADS, HEAD_DIM, MLP_DIM, VOCAB, LENGTH = 2048, 20, 16, 128, 5632, 32128, 2048


def check_cudnn() -> float:
    """Returns the largest difference of gradients of packed causal attention in bfloat16, relative to the reference's maximum."""
    random = np.random.default_rng(0)
    q, k, v, mix = (jnp.asarray(random.normal(size=(2, 512, 4, 128)), jnp.bfloat16) for _ in range(4))
    segments = jnp.asarray(np.sort(random.integers(1, 5, (2, 512)), axis=1))
    mask = (segments[:, :, None] == segments[:, None]) & jnp.tril(jnp.ones((512, 512), bool))

    def run(kernel: Callable) -> tuple[jax.Array, ...]:
        def loss(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return jnp.sum(kernel(q, k, v, None, mask, 128**-0.5).astype(jnp.float32) * mix)

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(q, k, v)[1]

    pairs = zip(run(kernels.cudnn), run(kernels.reference), strict=True)
    return max(float(jnp.max(jnp.abs(a - b)) / jnp.max(jnp.abs(b))) for a, b in pairs)


def make_cache() -> TokenCache:
    """Writes a cache of random documents of a few hundred to a few thousand bytes, so that a row holds several."""
    random, inputs = np.random.default_rng(0), {"task": "synthetic"}
    root = Path(tempfile.mkdtemp())
    folder = root / "synthetic" / token_cache.fingerprint_of(inputs) / "train"
    folder.mkdir(parents=True)
    examples = ({"targets": random.integers(3, 259, random.integers(200, 3000))} for _ in range(500))
    cache_writer.write(folder, "synthetic", "train", inputs, ByteVocabulary(), ["targets"], examples)
    return TokenCache("synthetic", "train", root=str(root), fingerprint=token_cache.fingerprint_of(inputs))


def build_model(remat: Callable | None) -> nn.Module:
    """Builds the decoder from t5x_like's blocks."""
    block = blocks.Block(
        mixer=attention.SelfAttention(num_heads=HEADS, head_dim=HEAD_DIM),
        mlp=mlp.Mlp(hidden_dim=MLP_DIM, activation=nn.silu, gated=True),
    )
    decoder = stack.Stack(block=block, repeats=LAYERS, position=positions.Rope(HEAD_DIM), scan=False, remat=remat)
    return architectures.DecoderOnly(linear.Embed(VOCAB, WIDTH), decoder, heads.Untied())


def build_run(size: int, remat: Callable | None, chunk: int | None) -> tuple[Callable, float, Callable]:
    """Returns (a function that runs N steps and returns seconds, FLOPs per step, a function that returns peak bytes)."""
    train_rows = rows.CausalLM(make_cache(), LENGTH)
    stream, mesh = Stream(train_rows, size), partitioning.make_mesh(devices=jax.devices()[:1])
    precision = Precision(jnp.float32, jnp.bfloat16)
    optimizer, model = optimizers.adamw(1e-4), build_model(remat)
    layout = state.layout(model, optimizer, batches.abstract(train_rows, size), mesh, precision=precision)
    objective = lm.LanguageModel(chunk=chunk)
    step = jit_step(
        TrainStep(model.apply, objective, optimizer, parameters.view(Freeze(), precision), 1),
        layout,
        partitioning.batch_sharding(mesh),
        mesh,
    )
    run = {"state": layout.create(0), "k": 0}
    fetch = loop.fetcher(stream, partitioning.batch_sharding(mesh))
    example = jax.ShapeDtypeStruct((size, LENGTH, HEADS, HEAD_DIM), jnp.bfloat16)
    print(f"attention kernel: {kernels.select(example, None, None).__name__}")

    def steps(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            batch, _ = fetch(run["k"])
            with partitioning.on(mesh):
                run["state"], metrics = step(run["state"], batch, {})
            run["k"] += 1
        float(metrics["loss"][0])
        return time.perf_counter() - started

    row = flops.per_row(model, layout.boxed.params, train_rows.lengths)
    return steps, row.train * size, lambda: jax.devices()[0].memory_stats()["peak_bytes_in_use"]


def build_torch_run(size: int) -> tuple[Callable, Callable]:
    """Returns (a function that runs N steps and returns seconds, a function that returns peak bytes)."""
    import torch
    import torch.nn.functional as F

    inner = HEADS * HEAD_DIM
    angles = torch.arange(LENGTH, device="cuda")[:, None] * 1e4 ** (
        -torch.arange(0, HEAD_DIM, 2, device="cuda") / HEAD_DIM
    )
    cos, sin = angles.cos(), angles.sin()

    def rotate(x):
        a, b = x.chunk(2, -1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = torch.nn.RMSNorm(WIDTH), torch.nn.RMSNorm(WIDTH)
            self.qkv = torch.nn.Linear(WIDTH, 3 * inner, bias=False)
            self.out = torch.nn.Linear(inner, WIDTH, bias=False)
            self.up = torch.nn.Linear(WIDTH, 2 * MLP_DIM, bias=False)
            self.down = torch.nn.Linear(MLP_DIM, WIDTH, bias=False)

        def forward(self, x):
            q, k, v = self.qkv(self.norm1(x)).view(*x.shape[:2], 3, HEADS, HEAD_DIM).permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(rotate(q), rotate(k), v, is_causal=True)
            x = x + self.out(y.transpose(1, 2).reshape(*x.shape[:2], inner))
            gate, up = self.up(self.norm2(x)).chunk(2, -1)
            return x + self.down(F.silu(gate) * up)

    class Model(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = torch.nn.Embedding(VOCAB, WIDTH)
            self.layers = torch.nn.ModuleList(Layer() for _ in range(LAYERS))
            self.norm, self.head = torch.nn.RMSNorm(WIDTH), torch.nn.Linear(WIDTH, VOCAB, bias=False)

        def forward(self, tokens, targets):
            x = self.embed(tokens)
            for layer in self.layers:
                x = layer(x)
            return F.cross_entropy(self.head(self.norm(x)).float().view(-1, VOCAB), targets.view(-1))

    model = Model().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    compiled = torch.compile(model)
    tokens = torch.randint(0, VOCAB, (size, LENGTH), device="cuda")

    def steps(count: int) -> float:
        started = time.perf_counter()
        for _ in range(count):
            with torch.autocast("cuda", torch.bfloat16):
                loss = compiled(tokens, tokens)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()
        return time.perf_counter() - started

    return steps, lambda: torch.cuda.max_memory_allocated()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8, help="rows of 2048 tokens per step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="steps per round")
    parser.add_argument("--remat", action="store_true", help="save only matrix products for the backward pass")
    parser.add_argument("--chunk", type=int, default=512, help="positions per row whose logits are computed at a time")
    parser.add_argument("--no_peer", action="store_true", help="skip the PyTorch peer")
    args = parser.parse_args()
    if jax.default_backend() != "gpu":
        raise SystemExit("gpu_train.py needs a GPU; train_step.py is the benchmark for CPUs")
    print(f"cuDNN against the reference on packed rows: largest relative difference {check_cudnn():.2e}")
    our_steps, count, our_peak = build_run(args.rows, stack.save_products if args.remat else None, args.chunk)
    sides, peaks = {"ours": our_steps}, {"ours": our_peak}
    if not args.no_peer:
        sides["torch"], peaks["torch"] = build_torch_run(args.rows)
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        side(3)
    for _ in range(args.rounds):
        for name, side in sides.items():
            seconds[name].append(side(args.steps) / args.steps)
    peak, source = flops.peak_per_device()
    table = {
        name: {"step s": report.summarize(x)["median"], "min": min(x), "max": max(x)}
        | {"tokens/s": args.rows * LENGTH / report.summarize(x)["median"]}
        | {"MFU": count / report.summarize(x)["median"] / peak, "peak GiB": peaks[name]() / 2**30}
        for name, x in seconds.items()
    }
    report.print_table(f"1.2B decoder, {args.rows} x {LENGTH}; MFU: {flops.FORMULA}; peak: {source}", table)
    ratio = table["torch"]["step s"] / table["ours"]["step s"] if "torch" in table else None
    report.print_json(ratio=ratio, mfu=table["ours"]["MFU"], **report.summarize(seconds["ours"]))


if __name__ == "__main__":
    main()
