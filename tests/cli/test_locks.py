"""Commands whose output another process writes are refused before they do anything."""

import pytest

from t5x_like import locks
from t5x_like.cli import main
from tests import locked

TRAIN = [f"--gin_file={name}.gin" for name in ("sizes/llama/tiny", "objectives/causal_lm", "optimizers/adamw")]
TRAIN += ["--gin_file=runs/pretrain.gin", "--gin.TASK=unknown", "--gin.LENGTH=16", "--gin.RUN_DIR=OUT"]


@pytest.mark.parametrize(
    "flags",
    [
        ["train", "--compile_cache=", *TRAIN],
        ["infer", "--compile_cache=", "--run_dir=none", "--prompt=a", "--output=OUT"],
        ["score", "--compile_cache=", "--run_dir=none", "--text=a", "--output=OUT"],
        ["clean", "--gin_file=cleaning/c4.gin", "--input=none", "--out=OUT"],
        ["clean", "--train_classifier", "a=none", "b=none", "--out=OUT"],
    ],
    ids=["train", "infer", "score", "clean", "classifier"],
)
def test_a_second_process_is_refused(flags, tmp_path, capsys):
    out = tmp_path / "out"
    command = [flag.replace("OUT", str(out)) for flag in flags]
    folder_lock = {"train": out / "lock", "clean": out / ".lock"}.get(flags[0], locks.beside(out))
    path = locks.beside(out) if "--train_classifier" in flags else folder_lock
    with locked.by_another_process(path) as process:
        before = set(tmp_path.rglob("*"))
        assert main.main(command) == 2
        assert f"is in use by process {process.pid} on " in capsys.readouterr().err
        assert set(tmp_path.rglob("*")) == before
