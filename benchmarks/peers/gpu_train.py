"""PyTorch's side of gpu_train.py: the decoder with torch.compile, fused attention and fused AdamW, served in turns.

By default the model and its gradients are bfloat16 and AdamW updates float32 master weights. Attention is flash attention with a
causal mask, which sees across the documents of a row; --documents masks them with flex attention. Tokens stay on the device.
"""

import argparse
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import flex_attention

import turns

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions of [B, H, L, K]."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1).to(x.dtype)


class Layer(torch.nn.Module):
    """Attention and a gated MLP, each with its norm and a residual connection; products with one input are one product."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.depth = args.width // args.heads
        self.sizes = [args.width, args.kv_heads * self.depth, args.kv_heads * self.depth]
        self.shared = args.kv_heads < args.heads
        self.norm1, self.norm2 = torch.nn.RMSNorm(args.width), torch.nn.RMSNorm(args.width)
        self.qkv = torch.nn.Linear(args.width, sum(self.sizes), bias=False)
        self.out = torch.nn.Linear(args.width, args.width, bias=False)
        self.up = torch.nn.Linear(args.width, 2 * args.mlp_dim, bias=False)
        self.down = torch.nn.Linear(args.mlp_dim, args.width, bias=False)

    def forward(self, x, cos, sin, mask):
        heads = self.qkv(self.norm1(x)).split(self.sizes, -1)
        q, k, v = (each.unflatten(-1, (-1, self.depth)).transpose(1, 2) for each in heads)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if mask is None:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.shared)
        else:
            y = flex_attention.flex_attention(q, k, v, block_mask=mask, enable_gqa=self.shared)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        gate, up = self.up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Model(torch.nn.Module):
    """The decoder; returns the mean cross-entropy."""

    def __init__(self, args: argparse.Namespace) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(args.vocab, args.width)
        self.layers = torch.nn.ModuleList(Layer(args) for _ in range(args.layers))
        self.norm = torch.nn.RMSNorm(args.width)
        self.head = torch.nn.Linear(args.width, args.vocab, bias=False)

    def forward(self, tokens, targets, cos, sin, mask):
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x, cos, sin, mask)
        return F.cross_entropy(self.head(self.norm(x)).float().flatten(0, 1), targets.flatten())


def rotary(args: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin [L, K / 2]."""
    depth = args.width // args.heads
    frequencies = 1e4 ** (-torch.arange(0, depth, 2, device=DEVICE) / depth)
    angles = torch.arange(args.length, device=DEVICE)[:, None] * frequencies
    return angles.cos(), angles.sin()


def document_mask(args: argparse.Namespace) -> flex_attention.BlockMask:
    """A causal mask of rows of six documents."""
    cuts = torch.rand(args.rows, args.length, device=DEVICE) < 5 / args.length
    segments = cuts.cumsum(1)

    def visible(row, head, query, key):
        return (query >= key) & (segments[row, query] == segments[row, key])

    return flex_attention.create_block_mask(visible, args.rows, None, args.length, args.length, device=DEVICE)


class Steps:
    """Train steps on one batch."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.autocast = args.autocast
        model = Model(args).to(DEVICE)
        self.masters = list(model.parameters())
        if not args.autocast:
            self.masters = [p.detach().clone() for p in self.masters]
            model = model.bfloat16()
        self.params = list(model.parameters())
        fused = torch.optim.AdamW(self.masters, lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
        self.optimizer, self.model = fused, torch.compile(model)
        tokens = torch.randint(0, args.vocab, (args.rows, args.length + 1), device=DEVICE)
        self.inputs = (tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous(), *rotary(args))
        self.mask = document_mask(args) if args.documents else None

    def step(self) -> torch.Tensor:
        """One step; gradients are clipped to a norm of 1, as ours are."""
        with torch.autocast(DEVICE, torch.bfloat16, enabled=self.autocast):
            loss = self.model(*self.inputs, self.mask)
        loss.backward()
        if not self.autocast:
            for master, p in zip(self.masters, self.params, strict=True):
                master.grad, p.grad = p.grad.float(), None
        torch.nn.utils.clip_grad_norm_(self.masters, 1.0, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if not self.autocast:
            with torch.no_grad():
                torch._foreach_copy_(self.params, self.masters)
        return loss

    def run(self, count: int) -> float:
        """Runs `count` steps and returns the last loss."""
        for _ in range(count):
            loss = self.step()
        return loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("width", "layers", "heads", "kv_heads", "mlp_dim", "vocab", "length", "rows", "steps"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument(
        "--autocast", action="store_true", help="float32 weights under autocast instead of bfloat16 ones"
    )
    parser.add_argument("--documents", action="store_true", help="mask the documents of a row, with flex attention")
    args = parser.parse_args()
    torch.manual_seed(0)
    steps = Steps(args)
    started = time.perf_counter()
    steps.run(1)
    first = time.perf_counter() - started
    steps.run(args.steps)
    turns.serve(
        lambda: steps.run(args.steps),
        device_bytes=torch.cuda.max_memory_allocated() if DEVICE == "cuda" else None,
        torch=torch.__version__,
        parameters=sum(p.numel() for p in steps.params),
        **{"first step s": first},
    )


if __name__ == "__main__":
    main()
