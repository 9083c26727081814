"""`t5x_like merge`: the written run has the model of the tuned one, and can be opened and tuned again."""

import json

import jax
import numpy as np

from t5x_like.cli import main, setup
from t5x_like.cli.gin import runtime

FILES = ("sizes/llama/tiny", "objectives/causal_lm", "optimizers/adamw", "runs/pretrain", "peft/lora")
MACROS = {"STEPS": 2, "WARMUP_STEPS": 1, "BATCH_SIZE": 8, "VOCAB_SIZE": 384, "LENGTH": 32, "TASK": "tiny"}


def test_the_merged_run_has_the_model_of_the_tuned_one(tiny_root, tmp_path, capsys):
    overrides = [f"--gin.{name}={value}" for name, value in MACROS.items()]
    overrides += [f"--gin.RUN_DIR={tmp_path / 'tuned'}", f"--gin.token_cache.TokenCache.root={tiny_root}"]
    config = runtime.parse([f"{name}.gin" for name in FILES], overrides)
    config.bind("trainer.train")(config=config.resolved_config())
    assert main.main(["merge", str(tmp_path / "tuned"), f"--out={tmp_path / 'merged'}"]) == 0
    runs = [setup.TrainedRun(str(tmp_path / name)) for name in ("tuned", "merged")]
    before, after = (run.params(run.example_batch()) for run in runs)
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert runs[0].vocabulary.fingerprint == runs[1].vocabulary.fingerprint
    manifest = json.loads((tmp_path / "merged" / "checkpoints" / "0" / "manifest.json").read_text())
    assert not [name for name in manifest["arrays"] if "@" in name]
    assert main.main(["merge", str(tmp_path / "tuned"), f"--out={tmp_path / 'merged'}"]) == 2
    assert "already exists; give a new folder" in capsys.readouterr().err
