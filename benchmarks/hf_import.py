"""Time to import a 1 GB Hugging Face folder onto the device, and to read the same files from disk, both from a cold cache.

Every import runs in a new process, so that its compilation counts; importing JAX does not count. Before it, a child process
allocates and frees as much memory as the parameters need: a virtual machine may first have to get it from its host, which
can take longer than everything else and which a plain disk read does not need. Host memory is the growth of the process's
peak, less the parameters themselves (on a CPU they are in the same memory), in units of the largest tensor.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import report

LAYERS, WIDTH, MLP, VOCAB = 15, 1024, 2816, 32000  # a LLaMA shape, 1.03 GB in float32


def write(folder: Path) -> None:
    """Writes a folder with random weights, in four shards."""
    import jax
    from flax import linen as nn

    from t5x_like import hf
    from t5x_like.hf import families
    from t5x_like.models import architectures, attention, blocks, heads, linear, mlp, norms, positions, stack

    block = blocks.Block(
        mixer=attention.SelfAttention(WIDTH // 64, 64, WIDTH // 64),
        mlp=mlp.Mlp(MLP, nn.silu, gated=True),
        norm=norms.RMSNorm(),
    )
    decoder = stack.Stack(block=block, repeats=LAYERS, position=positions.Rope(64), norm=norms.RMSNorm())
    model = architectures.DecoderOnly(linear.Embed(VOCAB, WIDTH), decoder, heads.Untied())
    batch = {name: jax.numpy.zeros(x.shape, x.dtype) for name, x in families.example_batch(model).items()}
    params = nn.unbox(jax.jit(model.init)(jax.random.key(0), batch)["params"])
    hf.save(model, params, folder, shard_bytes=300 * 10**6)


def drop_cache(folder: Path) -> None:
    """Removes the files from the page cache."""
    for path in folder.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def read(folder: Path) -> float:
    """Returns the seconds to read every file sequentially."""
    buffer = bytearray(2**23)
    started = time.perf_counter()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return time.perf_counter() - started


def memory(kind: str) -> int:
    """Returns the bytes of this process: "VmRSS" current, "VmHWM" peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(kind)) * 1024


def warm_memory(size: int) -> None:
    """Allocates and frees `size` bytes in a child process."""
    code = f"import numpy; numpy.ones(int(1.2 * {size}), numpy.uint8)"
    subprocess.run([sys.executable, "-c", code], check=True)


def load(folder: Path) -> dict[str, float]:
    """Imports the folder in this process; returns seconds and memory."""
    import jax

    from t5x_like import hf
    from t5x_like.hf import tensors

    jax.devices()
    warm_memory(sum(path.stat().st_size for path in folder.iterdir()))
    before, started = memory("VmRSS"), time.perf_counter()
    _, params = hf.load(folder)
    jax.block_until_ready(params)
    seconds = time.perf_counter() - started
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    largest = max(tensors.byte_size(x) for x in tensors.list_tensors(folder).values())
    return {"seconds": seconds, "extra": (memory("VmHWM") - before - size) / largest, "bytes": size}


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    parser.add_argument("--write", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        write(Path(args.write))
        return
    if args.folder:
        print(json.dumps(load(Path(args.folder))))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "model"
        subprocess.run([sys.executable, __file__, f"--write={folder}"], check=True)
        disk, ours = [], []
        for _ in range(args.rounds):
            drop_cache(folder)
            disk.append(read(folder))
            drop_cache(folder)
            command = [sys.executable, __file__, f"--folder={folder}"]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            ours.append(json.loads(done.stdout.splitlines()[-1]))
    size = ours[0]["bytes"]
    rates = {"disk alone": [size / s / 1e6 for s in disk], "import": [size / r["seconds"] / 1e6 for r in ours]}
    rows = {f"{name}, MB/s": report.summarize(values) for name, values in rates.items()}
    extra = report.summarize([r["extra"] for r in ours])
    report.print_table(f"import of {size / 1e9:.2f} GB", rows | {"host memory, largest tensors": extra})
    disk_rate, our_rate = (row["median"] for row in rows.values())
    report.print_json(ratio=our_rate / disk_rate, megabytes_per_second=our_rate, extra=extra["median"])


if __name__ == "__main__":
    main()
