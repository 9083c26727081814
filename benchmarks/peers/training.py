"""What PyTorch's sides of the train-step benchmarks share."""

import argparse
import os
from collections.abc import Mapping

import torch
import transformers

import turns

VERSIONS = {"torch": torch.__version__, "transformers": transformers.__version__}


def parser(doc: str) -> argparse.ArgumentParser:
    """The flags that all train steps have."""
    flags = argparse.ArgumentParser(description=doc)
    flags.add_argument("--rows", type=int, required=True)
    flags.add_argument("--compile", action="store_true", help="compile the model with torch.compile")
    return flags


def use_all_cores() -> None:
    """Lets PyTorch use as many threads as this process has cores."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)


def adamw(model: torch.nn.Module, learning_rate: float = 1e-3) -> torch.optim.Optimizer:
    """AdamW that updates each parameter in one pass (`fused`)."""
    return torch.optim.AdamW(model.parameters(), lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True)


def serve(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Mapping[str, torch.Tensor], compiled: bool
) -> None:
    """Serves train steps on one batch; see turns.py."""
    model.train()
    forward = torch.compile(model) if compiled else model

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = forward(**batch).loss
        loss.backward()
        optimizer.step()
        return loss.item()

    turns.serve(step, versions=VERSIONS, parameters=sum(p.numel() for p in model.parameters()))
