"""`t5x_like hf`: an imported folder decodes, trains and exports to the same folder; models as gin text."""

import json
import shutil

import numpy as np
import pytest
import tokenizers

from t5x_like import hf
from t5x_like.cli import main
from t5x_like.cli.gin import runtime
from t5x_like.cli.gin import text as gin_text
from t5x_like.hf import dropout, modules, tensors
from tests.hf import folders
from tests.hf.folders import FIXTURES, NAMES


@pytest.mark.parametrize("name", NAMES)
def test_gin_text_gives_the_same_model(name, tmp_path):
    family, model = hf.build_model(folders.config(name), names=folders.tensor_names(name))
    (tmp_path / "model.gin").write_text(gin_text.format_model(model))
    again = runtime.parse([str(tmp_path / "model.gin")]).evaluate("trainer.train.model")
    assert list(modules.find_differences(model, again)) == []
    assert dropout.describe_rates(family.rates, again) == dropout.describe_rates(family.rates, model)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A LLaMA with a tokenizer whose ids all lie in the model's table."""
    path = tmp_path_factory.mktemp("hf") / "llama"
    shutil.copytree(FIXTURES / "llama_bf16", path)
    words = {word: i for i, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["<pad>", "<s>", "</s>"])
    tokenizer.save(str(path / "tokenizer.json"))
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    (path / "tokenizer_config.json").write_text(json.dumps(special))
    return path


@pytest.fixture(scope="module")
def run_dir(folder):
    out = folder.parent / "run"
    assert main.main(["hf", "import", str(folder), f"--out={out}"]) == 0
    return out


def test_export_of_an_import_is_the_original(folder, run_dir, tmp_path):
    assert main.main(["hf", "export", str(run_dir), f"--out={tmp_path / 'out'}"]) == 0
    before, after = tensors.list_tensors(folder), tensors.list_tensors(tmp_path / "out")
    assert {n: (x.dtype, x.read().tobytes()) for n, x in after.items()} == {
        n: (x.dtype, x.read().tobytes()) for n, x in before.items()
    }
    config, original = json.loads((tmp_path / "out" / "config.json").read_text()), folders.config("llama_bf16")
    for field in (
        "model_type",
        "architectures",
        "bos_token_id",
        "eos_token_id",
        "max_position_embeddings",
        "hidden_size",
    ):
        assert config[field] == original[field]
    text = "a b z"
    before, after = (tokenizers.Tokenizer.from_file(str(x / "tokenizer.json")) for x in (folder, tmp_path / "out"))
    assert after.encode(text).ids == before.encode(text).ids


def test_an_imported_run_decodes(run_dir, tmp_path, capsys):
    out = tmp_path / "made.jsonl"
    command = ["infer", f"--run_dir={run_dir}", "--prompt=a b c", "--max_new_tokens=4", f"--output={out}"]
    assert main.main([*command, "--batch_size=1", "--compile_cache="]) == 0
    made = json.loads(out.read_text())
    assert made["prompt"] == "a b c" and 1 <= len(made["tokens"]) <= 4


def test_an_imported_run_can_be_fine_tuned(run_dir, tiny_root, tmp_path):
    """Bytes of another task in the imported model's table: only the shapes matter here."""
    files = ("objectives/causal_lm.gin", "optimizers/adamw.gin", "runs/finetune.gin")
    text = (run_dir / "config.gin").read_text().replace("vocab_size = 61", "vocab_size = 384")
    (tmp_path / "model.gin").write_text(text)
    macros = {"STEPS": 1, "WARMUP_STEPS": 1, "BATCH_SIZE": 8, "LENGTH": 16, "TASK": "tiny", "RUN_DIR": tmp_path / "run"}
    config = runtime.parse(
        [str(tmp_path / "model.gin"), *files],
        [
            *(f"--gin.{name}={value}" for name, value in macros.items()),
            f"--gin.token_cache.TokenCache.root={tiny_root}",
            f"--gin.INITIAL={run_dir}",
            "--gin.EXCLUDE=('table',)",
            "--gin.trainer.Evaluation.batches=1",
        ],
    )
    metrics = config.bind("trainer.train")(config=config.resolved_config())
    assert np.isfinite(metrics["loss"])


def test_fine_tuning_reads_own_files_with_the_imported_vocabulary(run_dir):
    text_tasks = pytest.importorskip("t5x_like.tasks.text_tasks")
    files = ["tasks/files.gin", "objectives/causal_lm.gin", "optimizers/adamw.gin", "runs/finetune.gin"]
    flags = [f"--gin.INITIAL={run_dir}", "--gin.TRAIN_FILES=x.txt", "--gin.RUN_DIR=x"]
    config = runtime.parse([str(run_dir / "config.gin"), *files], flags)
    assert config.evaluate("%VOCABULARY") == str(run_dir)
    wrapped = text_tasks.find_vocabulary(str(run_dir))
    assert (wrapped.plain.eos, wrapped.eos_id, wrapped.plain.vocab_size) == (2, 2, 61)
    assert wrapped.files[0] == f"{run_dir}/vocabulary/*.json"  # token caches depend on them
    named = runtime.parse([str(run_dir / "config.gin"), *files], [*flags, "--gin.VOCABULARY=sp"])
    assert named.evaluate("%VOCABULARY") == "sp"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["import", "/nowhere", "--out=OUT"], "/nowhere does not exist; give a folder"),
        (["import", "FOLDER", "--out=FOLDER"], "already exists; give a new folder"),
        (["import", "FOLDER", "--out=OUT", "--dtype=int7"], "--dtype=int7 is unknown; give one of stored, float32"),
        (["export", "/nowhere", "--out=OUT"], "config.gin does not exist"),
        (["export", "RUN", "--out=OUT", "--model_type=gpt2"], "as 'gpt2' it would differ"),
        (["export", "RUN", "--out=OUT", "--model_type=nothing"], "model_type='nothing' is not supported"),
    ],
)
def test_bad_input_raises_before_anything_is_written(flags, message, folder, run_dir, tmp_path, capsys):
    places = {"OUT": str(tmp_path / "out"), "FOLDER": str(folder), "RUN": str(run_dir)}
    for name, place in places.items():
        flags = [flag.replace(name, place) for flag in flags]
    assert main.main(["hf", *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_names_the_commands(capsys):
    with pytest.raises(SystemExit):
        main.main(["hf", "--help"])
    assert "t5x_like hf import" in capsys.readouterr().out
