"""Training a 0.75B LLaMA-shaped decoder on one GPU, beside PyTorch: six parts in at most 8 minutes, each useful alone.

  step       tokens/s, MFU and memory of ours and of torch.compile with flash attention and fused AdamW, in turns
  attention  the kernels on packed rows against the reference: difference and milliseconds
  profile    where the time of a step goes: the kernels that take the most
  peers      other ways to write PyTorch's side: under autocast, and with documents masked as ours are
  layers     the kernel for packed rows, scanned layers and rematerialisation against the default: step, memory, first step
  buffers    XLA's command buffers (CUDA graphs) on and off

Sequence length 2048 with several documents per row, 8 rows, bfloat16 products, float32 master weights, AdamW. MFU counts causal
attention at half. PyTorch's side runs in this Python, or in --peer=PYTHON. A part runs in processes of its own: if it fails or
the time is up, the others' results stay. Every result is a line of --out/gpu_train.jsonl as soon as it is there. --tiny runs all
parts in a small size on any device, to see that they work. Needs no TensorFlow, seqio or gin. The last line has our MFU (the goal
is 0.5) and the time of PyTorch's fastest side over ours (1.05). In a checkout that is not installed: PYTHONPATH=.
"""

import argparse
import glob
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gpu_side

import turns

HERE = Path(__file__).parent
SHAPE = ("width", "layers", "heads", "kv_heads", "mlp_dim", "vocab", "length", "rows", "steps")
TINY = dict(width=64, layers=2, heads=2, kv_heads=1, mlp_dim=128, vocab=512, length=128, rows=2, steps=1)
NO_BUFFERS = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_enable_command_buffer="}


def write(args: argparse.Namespace, part: str, **row: Any) -> None:
    """Prints a result and appends it to the file."""
    line = json.dumps({"part": part, **row})
    print(line, flush=True)
    with open(Path(args.out) / "gpu_train.jsonl", "a", encoding="utf-8") as file:
        file.write(f"{line}\n")


def shape(args: argparse.Namespace) -> list[str]:
    """The flags of the shape, for a side."""
    return [f"--{name}={getattr(args, name)}" for name in SHAPE]


def ours(args: argparse.Namespace, *flags: str, **environment: str) -> turns.Side:
    """Our side."""
    command = [sys.executable, str(HERE / "gpu_side.py"), *shape(args), *flags]
    return turns.Side(command, environment)


def peer(args: argparse.Namespace, *flags: str) -> turns.Side:
    """PyTorch's side."""
    return turns.Side([args.peer, str(HERE / "peers" / "gpu_train.py"), *shape(args), *flags])


def figures(args: argparse.Namespace, side: turns.Turns, flops: float, peak: float) -> dict[str, Any]:
    """The row of a side: seconds per step, tokens per second, MFU, memory on the device, and its facts."""
    seconds = [wall / args.steps for wall in side.all("wall")]
    step = statistics.median(seconds)
    row = {"step s": step, "min": min(seconds), "max": max(seconds), "tokens/s": args.rows * args.length / step}
    row |= {"MFU": flops / step / peak, "loss": side.steps[-1]["loss"]}
    return row | {name: fact for name, fact in side.facts.items() if name not in ("losses", "flops", "peak_flops")}


def compare(args: argparse.Namespace, part: str, sides: Mapping[str, turns.Side]) -> None:
    """Runs one of our sides, the first, and another in turns; writes a row per side, with its time relative to the first's.

    Two at a time, because more do not fit a GPU's memory. If one fails, the error is written and the first runs alone.
    """
    (first, base), *others = sides.items()
    try:
        found = turns.take_turns(sides, args.rounds)
    except SystemExit as error:
        write(args, part, sides=list(sides), error=str(error)[:500])
        if others:
            compare(args, part, {first: base})
        return
    flops, peak = found[first].facts["flops"], found[first].facts["peak_flops"]
    for name, side in found.items():
        pairs = [other / own for other, own in zip(side.all("wall"), found[first].all("wall"), strict=True)]
        ratio = {"time / first": statistics.median(pairs), "least": min(pairs), "most": max(pairs)}
        write(args, part, side=name, **ratio, **figures(args, side, flops, peak))


def run_step(args: argparse.Namespace) -> None:
    """Ours and PyTorch's."""
    compare(args, "step", {"ours": ours(args)} | ({"torch": peer(args)} if args.peer else {}))
    if not args.peer:
        write(args, "step", error="torch cannot be imported; name a Python that has it: --peer=PYTHON")


def run_peers(args: argparse.Namespace) -> None:
    """PyTorch's side in two other ways."""
    for flag in ("--autocast", "--documents") if args.peer else ():
        compare(args, "peers", {"ours": ours(args), f"torch {flag}": peer(args, flag)})


def run_layers(args: argparse.Namespace) -> None:
    """Layers in other ways than the default."""
    for flags in (("--packed=8",), ("--scan",), ("--remat",), ("--scan", "--remat")):
        compare(args, "layers", {"ours": ours(args), " ".join(flags): ours(args, *flags)})


def run_buffers(args: argparse.Namespace) -> None:
    """Command buffers on (XLA's default) and off."""
    compare(args, "buffers", {"on": ours(args), "off": ours(args, **NO_BUFFERS)})


def run_attention(args: argparse.Namespace) -> None:
    """The attention kernels."""
    import gpu_attention  # here, because it takes memory of the device

    for row in gpu_attention.measure(args.tiny):
        write(args, "attention", **row)


def run_profile(args: argparse.Namespace, steps: int = 3, top: int = 25) -> None:
    """Traces a few steps and writes the time of the kernels, grouped by name."""
    import jax

    run, _ = gpu_side.build(gpu_side.parse(shape(args)))
    run(2)
    with tempfile.TemporaryDirectory() as folder:
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        with jax.profiler.trace(folder, profiler_options=options):
            run(steps)
        (trace,) = glob.glob(f"{folder}/**/*.xplane.pb", recursive=True)
        taken, busy = kernel_seconds(trace)
    total = sum(taken.values())
    write(args, "profile", **{"kernel s per step": total / steps, "device busy s per step": busy / steps})
    for name, seconds in taken.most_common(top):
        write(args, "profile", kernel=name, share=seconds / max(total, 1e-12), **{"ms per step": 1e3 * seconds / steps})


def kernel_seconds(trace: str) -> tuple[Counter[str], float]:
    """Returns (seconds by kernel, seconds in which one ran at least) of a trace, from the GPU's streams or the CPU's threads."""
    from jax.profiler import ProfileData

    planes = list(ProfileData.from_file(trace).planes)
    devices = [plane for plane in planes if plane.name.startswith("/device:GPU")]
    lines = [line for plane in devices or planes for line in plane.lines if not devices or "Stream" in line.name]
    taken: Counter[str] = Counter()
    spans = []
    for line in lines:
        for event in line.events:
            taken[group_of(event.name)] += event.duration_ns / 1e9
            spans.append((event.start_ns, event.start_ns + event.duration_ns))
    busy, end = 0.0, 0.0
    for start, stop in sorted(spans):
        busy += max(0.0, stop - max(start, end)) / 1e9
        end = max(end, stop)
    return taken, busy


def group_of(name: str) -> str:
    """A kernel's name without the number that XLA appends, so that all layers count as one."""
    return name.rstrip("0123456789").rstrip("_.") or name


def summarize(args: argparse.Namespace) -> dict[str, float | None]:
    """Our MFU, and the fastest PyTorch side's time over ours, of the newest results in the file."""
    lines = (Path(args.out) / "gpu_train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = {row.get("side"): row for row in map(json.loads, lines) if row["part"] in ("step", "peers") and "MFU" in row}
    ratios = [row["time / first"] for name, row in rows.items() if name != "ours"]
    return {"mfu": rows["ours"]["MFU"] if "ours" in rows else None, "ratio": min(ratios, default=None)}


PARTS = {
    "step": run_step,
    "attention": run_attention,
    "profile": run_profile,
    "peers": run_peers,
    "layers": run_layers,
    "buffers": run_buffers,
}


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"parts to run: {', '.join(PARTS)} (default: all)")
    parser.add_argument(
        "--out", default="gpu_results", metavar="FOLDER", help="folder of gpu_train.jsonl (default: %(default)s)"
    )
    parser.add_argument("--peer", metavar="PYTHON", help="a Python with torch (default: this one, if it has torch)")
    parser.add_argument("--minutes", type=float, default=8.0, help="parts still running then are ended (default: 8)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tiny", action="store_true", help="a small size, for any device")
    parser.add_argument("--alone", action="store_true", help="run the parts in this process")
    gpu_side.add_shape(parser)
    args = parser.parse_args(argv)
    if unknown := set(args.parts) - set(PARTS):
        parser.error(f"unknown part {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if args.tiny:
        vars(args).update(TINY, rounds=2)
    if args.peer is None and importlib.util.find_spec("torch"):
        args.peer = sys.executable
    return args


def run_apart(args: argparse.Namespace, part: str, seconds: float, folder: str) -> None:
    """Runs a part in a process of its own, and ends it and all that it started after `seconds`."""
    environment = os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "JAX_COMPILATION_CACHE_DIR": folder}
    command = [sys.executable, __file__, part, "--alone", f"--out={args.out}", f"--rounds={args.rounds}", *shape(args)]
    command += ["--tiny"] * args.tiny + [f"--peer={args.peer}"] * bool(args.peer)
    started = time.monotonic()
    process = subprocess.Popen(command, env=environment, start_new_session=True)
    try:
        code = process.wait(max(seconds, 1.0))
    except subprocess.TimeoutExpired:
        code = f"the time was up after {seconds:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    if code:
        write(args, part, error=code if isinstance(code, str) else f"exit code {code}: see its error above")
    write(args, part, seconds=round(time.monotonic() - started, 1))


def main() -> None:
    args = parse()
    parts = args.parts or list(PARTS)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    if args.alone:
        for part in parts:
            PARTS[part](args)
        return
    end = time.monotonic() + 60 * args.minutes
    with tempfile.TemporaryDirectory() as folder:  # the compile cache: parts share programs
        for part in parts:
            run_apart(args, part, end - time.monotonic(), folder)
    print(json.dumps(summarize(args)))


if __name__ == "__main__":
    main()
