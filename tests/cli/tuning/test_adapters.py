"""`hf import --adapter` and `hf export --adapter`: from a folder of PEFT to a run, and back."""

from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

from t5x_like.cli import main, setup

TESTS = Path(__file__).parents[2]
BASES, ADAPTERS = TESTS / "hf" / "fixtures", TESTS / "tuning" / "fixtures"


@pytest.mark.parametrize("name, base", [("llama_lora", "llama"), ("llama_norms", "llama"), ("llama_prompt", "llama")])
def test_an_imported_adapter_is_a_run_and_is_exported_as_it_was(tmp_path, capsys, name, base):
    run = tmp_path / "run"
    flags = [f"--adapter={ADAPTERS / name}", f"--out={run}"]
    assert main.main(["hf", "import", str(BASES / base), *flags]) == 0
    assert main.main(["hf", "export", str(run), "--adapter", f"--out={tmp_path / 'peft'}"]) == 0
    read = [safetensors_numpy.load_file(x / "adapter_model.safetensors") for x in (ADAPTERS / name, tmp_path / "peft")]
    jax.tree.map(np.testing.assert_array_equal, *read)
    if "prompt" in name:  # which no file of the whole model holds
        assert main.main(["hf", "export", str(run), f"--out={tmp_path / 'whole'}"]) == 2
        assert setup.TrainedRun(str(run)).transform.model.virtual_tokens == 3
        return
    # The whole model is the updated one: exported and imported again, it is what the run computes with.
    assert main.main(["hf", "export", str(run), f"--out={tmp_path / 'whole'}"]) == 0
    assert main.main(["hf", "import", str(tmp_path / "whole"), f"--out={tmp_path / 'again'}"]) == 0
    runs = [setup.TrainedRun(str(tmp_path / x)) for x in ("run", "again")]
    jax.tree.map(np.testing.assert_array_equal, *(x.params(x.example_batch()) for x in runs))
    assert main.main(["hf", "export", str(tmp_path / "again"), "--adapter", f"--out={tmp_path / 'none'}"]) == 2
    assert "trained all parameters of its model: it has no adapter" in capsys.readouterr().err
