"""Prints what a model costs without computing it: parameters, FLOPs, KV cache, and memory per device.

Needs only a size file: `t5x_like info --gin_file=sizes/llama/7b.gin`. It takes files of meshes/, optimizers/ and precision/
into account. `--gin.WIDTH=8192` tries another size, and --devices plans for machines that are not present.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

from t5x_like.cli import flags
from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import Config, ConfigError
from t5x_like.types import Params

if TYPE_CHECKING:
    import jax
    from flax import linen as nn

    from t5x_like.precision import Precision

DEFAULT_LENGTH = 2048
ASSUMED = "runs/info.gin"


def main(argv: Sequence[str]) -> int:
    """Runs `t5x_like info`."""
    parser = flags.Parser(prog="t5x_like info", description=__doc__)
    parser.add_argument(
        "--length",
        type=flags.positive,
        help=f"tokens per row, and the context when decoding (default: {DEFAULT_LENGTH}, or the model's position table)",
    )
    parser.add_argument(
        "--encoder_length", type=flags.positive, help="encoder length of an encoder-decoder (default: --length)"
    )
    parser.add_argument(
        "--batch_size", type=flags.positive, help="rows of the global batch; adds the cost of a training step"
    )
    parser.add_argument(
        "--devices", type=flags.positive, default=1, help="number of devices to plan for (default: %(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    runtime.add_flags(parser)
    args = runtime.parse_args(parser, argv)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # no computation, so no accelerator is needed
    facts = collect(args)
    print(json.dumps(facts, indent=2) if args.json else format_facts(facts))
    return 0


def collect(args: argparse.Namespace) -> dict[str, Any]:
    """Everything that the command prints, as JSON types."""
    from t5x_like import parameters
    from t5x_like.accounting import flops
    from t5x_like.models import ranges
    from t5x_like.precision import Precision

    config = read_config(args)
    model = config.evaluate("%MODEL")
    ranges.check(model)
    lengths = row_lengths(model, args.length, args.encoder_length)
    boxed, precision = abstract_params(model, lengths), parameter_of(config, "precision", Precision())
    transform = parameter_of(config, "transform", parameters.Freeze())
    parts = parameters.split_abstract(transform, stored_dtypes(boxed, precision))
    facts = {"model": type(model).__name__, "gin_files": args.gin_file, "lengths": lengths}
    facts |= {
        "parameters": flops.count_parameters(model, boxed) | count_trained(*parts),
        "flops": training_flops(model, boxed, lengths, args.batch_size),
    }
    if "decoder" in lengths:
        facts["decoding"] = decoding_cost(model, boxed, lengths, precision)
    facts["memory"] = memory_per_device(config, parts, precision, args.devices, args.batch_size)
    return facts


def read_config(args: argparse.Namespace) -> Config:
    """Reads the gin files.

    Raises:
      ConfigError: no file sets MODEL.
    """
    config = runtime.from_flags(args, ("MODEL", "OPTIMIZER"), [ASSUMED] if args.gin_file else [])
    if bound_value(config, "MODEL") is None:
        raise ConfigError("no gin file sets MODEL; give a size, such as --gin_file=sizes/llama/7b.gin")
    return config


def bound_value(config: Config, name: str) -> Any:
    """The value, as written, of a macro (`MODEL`) or a parameter of trainer.train (`mesh`); None if it is not bound."""
    for binding in config.bindings:
        if binding.macro == name or (binding.selector.endswith("trainer:train") and binding.parameter == name):
            return binding.value
    return None


def parameter_of(config: Config, name: str, default: Any) -> Any:
    """A parameter of trainer.train, or the default if no file sets it."""
    return default if bound_value(config, name) is None else config.evaluate(f"trainer.train.{name}")


def row_lengths(model: nn.Module, length: int | None, encoder_length: int | None) -> dict[str, int]:
    """The tokens per row of each side that the model has: {"encoder": L, "decoder": L}."""
    from t5x_like import batches
    from t5x_like.scoring.rows import position_table

    sides = [side for side in batches.SIDES if getattr(model, side, None) is not None]
    if not sides:
        raise ValueError(
            f"MODEL is a {type(model).__name__} without a field `encoder` or `decoder`; give a model with one of them"
        )
    if encoder_length is not None and len(sides) < 2:
        raise ValueError(
            f"--encoder_length={encoder_length}: {type(model).__name__} is not an encoder-decoder; use --length"
        )
    length = length or min(DEFAULT_LENGTH, position_table(model) or DEFAULT_LENGTH)
    return {side: encoder_length or length if side == "encoder" else length for side in sides}


def abstract_params(model: nn.Module, lengths: dict[str, int]) -> Params:
    """Shapes of the parameters, boxed with their logical axis names."""
    import jax
    import jax.numpy as jnp

    names = ("input_tokens", "positions", "segment_ids")
    widths = {f"{side}_{name}": length for side, length in lengths.items() for name in names}
    if "encoder" in lengths:
        widths["encoder_token_types"] = lengths["encoder"]
    batch = {name: jax.ShapeDtypeStruct((1, length), jnp.int32) for name, length in widths.items()}
    return jax.eval_shape(model.init, jax.random.PRNGKey(0), batch)["params"]


def stored_dtypes(boxed: Params, precision: Precision) -> Params:
    """Abstract parameters in the dtype they are stored in."""
    import jax

    return jax.eval_shape(precision.to_param_dtype, boxed)


def count_trained(trained: Params, frozen: Params) -> dict[str, int]:
    """The number of trained parameters, and of those that are the model's own, if some are frozen."""
    from flax.core.meta import unbox

    from t5x_like import checkpoints, parameters

    sizes = {name: math.prod(x.shape) for name, x in checkpoints.leaves_by_name(unbox(trained)).items()}
    own = sum(size for name, size in sizes.items() if parameters.ADDED not in name)
    return {"trained": sum(sizes.values()), "trained_of_model": own} if frozen else {}


def training_flops(model: nn.Module, boxed: Params, lengths: dict[str, int], batch_size: int | None) -> dict[str, Any]:
    """FLOPs per token (encoder and decoder tokens alike), per row, and per step if the batch size is known."""
    from t5x_like.accounting import flops

    row, tokens = flops.per_row(model, boxed, lengths), sum(lengths.values())
    facts = {
        "forward_per_token": row.forward / tokens,
        "attention_per_token": row.attention / tokens,
        "train_per_token": row.train / tokens,
        "train_per_row": row.train,
    }
    if batch_size is not None:
        facts |= {"batch_size": batch_size, "tokens_per_step": batch_size * tokens}
        facts["train_per_step"] = batch_size * row.train
    return facts


def decoding_cost(model: nn.Module, boxed: Params, lengths: dict[str, int], precision: Precision) -> dict[str, Any]:
    """FLOPs of one new token at the end of a row, and bytes of the KV cache."""
    import jax.numpy as jnp

    from t5x_like.accounting import flops

    context, memory = lengths["decoder"], lengths.get("encoder", 0)
    token = flops.per_decoded_token(model, boxed, context, memory)
    cache = flops.cache_size(model, boxed, context, memory)
    dtype = jnp.dtype(precision.compute_dtype)
    return {
        "context": context,
        "encoder_length": memory,
        "flops_per_token": token.forward,
        "attention_per_token": token.attention,
        "kv_cache_dtype": dtype.name,
        "kv_cache_bytes_per_token": cache.per_token * dtype.itemsize,
        "kv_cache_bytes_per_sequence": cache.per_sequence * dtype.itemsize,
        "kv_cache_bytes_read_per_token": cache.read * dtype.itemsize,
    }


def memory_per_device(
    config: Config, parts: tuple[Params, Params], precision: Precision, devices: int, batch_size: int | None
) -> dict[str, Any]:
    """Bytes that training needs on each device of the mesh, without activations; `parts` are trained and frozen."""
    import jax.numpy as jnp

    from t5x_like import partitioning
    from t5x_like.accounting import memory

    mesh, rules = planned_mesh(config, devices), parameter_of(config, "rules", partitioning.RULES)
    if batch_size is not None:
        partitioning.check_batch(batch_size, 1, mesh, rules)
    bound_optimizer = bound_value(config, "OPTIMIZER")
    optimizer = None if bound_optimizer is None else config.evaluate("%OPTIMIZER")
    usage = memory.per_device(parts[0], mesh, optimizer, rules, precision, frozen=parts[1])
    return {
        "devices": devices,
        "mesh": dict(mesh.shape),
        "param_dtype": jnp.dtype(precision.param_dtype).name,
        "compute_dtype": jnp.dtype(precision.compute_dtype).name,
        "parameters": usage.parameters,
        "computing_copy": usage.computing_copy,
        "gradients": usage.gradients,
        "optimizer_state": usage.optimizer,
        "optimizer": "assumed: AdamW, two float32 moments"
        if bound_optimizer is None
        else bound_optimizer.selector.rpartition(":")[2],
        "total": usage.total,
        "frozen": usage.frozen,
        "activations": "not counted",
    }


def planned_mesh(config: Config, devices: int) -> jax.sharding.Mesh:
    """The configured mesh over `devices` planned devices; data parallelism if none is configured."""
    from t5x_like import partitioning
    from t5x_like.accounting import memory

    options: dict[str, Any] = {"devices": memory.planned_devices(devices)}
    try:
        if bound_value(config, "mesh") is None:
            return partitioning.make_mesh(**options)
        return config.bind("partitioning.make_mesh")(**options)
    except ConfigError:
        raise
    except ValueError as error:
        raise ValueError(f"{error}; --devices={devices} sets the number of devices") from error


def format_facts(facts: dict[str, Any]) -> str:
    """The facts as text."""
    sections = [parameter_lines(facts["parameters"]), flops_lines(facts["flops"], facts["lengths"])]
    if "decoding" in facts:
        sections.append(decoding_lines(facts["decoding"]))
    frozen = facts["parameters"]["total"] - facts["parameters"].get("trained_of_model", facts["parameters"]["total"])
    sections.append(memory_lines(facts["memory"], frozen))
    title = f"{facts['model']} of {', '.join(facts['gin_files'])}"
    return "\n\n".join([title, *("\n".join(lines) for lines in sections)])


def line(label: str, value: str, note: str = "") -> str:
    """One line of the text: label, right-aligned value, note."""
    return f"  {label:<20}{value:>20}  {note}".rstrip()


def parameter_lines(facts: dict[str, Any]) -> list[str]:
    """The section on parameters."""
    head = "tied with the head" if facts["head_is_tied"] else "not tied with the head"
    return [
        "Parameters",
        line("total", f"{facts['total']:,}"),
        *([line("trained", f"{facts['trained']:,}", "the others are frozen")] if "trained" in facts else []),
        line("active per token", f"{facts['active_per_token']:,}"),
        line("embedding", f"{facts['embedding']:,}", f"lookup only, {head}"),
        line("non-embedding", f"{facts['non_embedding']:,}"),
        *(line(f"in {part}", f"{facts['parts'][part]:,}") for part in sort_parts(facts["parts"])),
    ]


def sort_parts(parts: Collection[str]) -> list[str]:
    """The parts of a model from input to output; unknown names last."""
    order = ("embed", "token_types", "encoder", "decoder", "head")
    return sorted(parts, key=lambda part: order.index(part) if part in order else len(order))


def flops_lines(facts: dict[str, Any], lengths: dict[str, int]) -> list[str]:
    """The section on FLOPs."""
    sides = ", ".join(f"{side} {length}" for side, length in lengths.items())
    lines = [
        f"FLOPs per token (length: {sides})",
        line("forward", f"{si(facts['forward_per_token'])}FLOP"),
        line(
            "of which attention", f"{si(facts['attention_per_token'])}FLOP", "queries times keys, weights times values"
        ),
        line("train", f"{si(facts['train_per_token'])}FLOP", "3 x forward"),
    ]
    if "batch_size" in facts:
        note = f"{facts['batch_size']} rows, {facts['tokens_per_step']:,} tokens"
        lines.append(line("training step", f"{si(facts['train_per_step'])}FLOP", note))
    return lines


def decoding_lines(facts: dict[str, Any]) -> list[str]:
    """The section on decoding."""
    size, read = facts["kv_cache_bytes_per_sequence"], facts["kv_cache_bytes_read_per_token"]
    cross = f" and {facts['encoder_length']} of the encoder" if facts["encoder_length"] else ""
    windowed = [line("read per token", binary(read), "with attention windows")] if read < size else []
    return [
        f"Decoding one token with a context of {facts['context']}",
        line("forward", f"{si(facts['flops_per_token'])}FLOP"),
        line("of which attention", f"{si(facts['attention_per_token'])}FLOP"),
        line("KV cache per token", binary(facts["kv_cache_bytes_per_token"]), facts["kv_cache_dtype"]),
        line("per sequence", binary(size), f"{facts['context']} positions{cross}"),
        *windowed,
    ]


def memory_lines(facts: dict[str, Any], frozen: int) -> list[str]:
    """The section on training memory; `frozen` is the number of the model's parameters that are not trained."""
    axes = ", ".join(f"{axis} {size}" for axis, size in facts["mesh"].items() if size > 1)
    where = f"each of {facts['devices']} devices ({axes})" if axes else "one device"
    copy = [line("compute copy", binary(facts["computing_copy"]), facts["compute_dtype"])]
    return [
        f"Training memory on {where}",
        line("parameters", binary(facts["parameters"]), facts["param_dtype"]),
        *([line("of which frozen", binary(facts["frozen"]), per_parameter(facts, frozen))] if facts["frozen"] else []),
        *(copy if facts["computing_copy"] else []),
        line("gradients", binary(facts["gradients"]), facts["param_dtype"]),
        line("optimizer state", binary(facts["optimizer_state"]), facts["optimizer"]),
        line("total", binary(facts["total"]), "activations are not counted"),
    ]


def per_parameter(facts: dict[str, Any], frozen: int) -> str:
    """The bytes of a frozen parameter, on all devices together."""
    each = facts["frozen"] * facts["devices"] / max(frozen, 1)
    return f"{each:.3g} bytes a parameter" + (" over all devices" if facts["devices"] > 1 else "")


def si(value: float) -> str:
    """1.23e12 as `1.23 T`."""
    from t5x_like import progress

    return progress.format_si(value)


def binary(size: float) -> str:
    """A number of bytes as `1.25 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
