"""The benchmark for GPUs starts without TensorFlow, seqio and gin."""

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
for name in ("tensorflow", "seqio", "gin", "tensorflow_datasets", "tensorflow_text", "sentencepiece"):
    sys.modules[name] = None
import gpu_attention, gpu_families, gpu_train

assert gpu_train.group_of("loop_add_fusion_12") == gpu_train.group_of("loop_add_fusion") == "loop_add_fusion"
args = gpu_train.parse(["--tiny", "step", f"--out={sys.argv[1]}"])
for side, ratio, mfu in (("ours", 1.0, 0.5), ("torch", 1.2, 0.4), ("torch --autocast", 1.1, 0.4), ("ours", 1.0, 0.6)):
    gpu_train.write(args, "step", side=side, MFU=mfu, **{"time / first": ratio})
gpu_train.write(args, "layers", side="--scan", MFU=0.7, **{"time / first": 0.9})
assert gpu_train.summarize(args) == {"mfu": 0.6, "ratio": 1.1}
"""


def test_gpu_train_needs_no_tensorflow_and_reads_its_results(tmp_path):
    root = Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "benchmarks")])
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], env=environment, check=True)
