"""A resolved configuration means the same in every folder, and needs no tokenizer to give the model."""

import shutil
from types import SimpleNamespace

import pytest

from t5x_like.cli.gin import runtime
from t5x_like.data.tokenizers import training
from t5x_like.data.tokenizers.named import SIZES, load, vocab_size
from t5x_like.tasks import vocabularies as wrappers

FILES = ["sizes/llama/tiny.gin", "tasks/files.gin", "objectives/causal_lm.gin", "optimizers/adamw.gin"]
SPLIT = [*FILES[:1], "tasks/hf_dataset.gin", *FILES[2:]]


@pytest.fixture
def at_home(tmp_path, monkeypatch):
    """The working directory, with a tokenizer `bpe` of 300 ids; its name has characters of globs."""
    home = tmp_path / "a[1]b"
    home.mkdir()
    training.save(training.train("bpe", ["some text of a few words"] * 9, 270), home / "bpe")
    monkeypatch.chdir(home)
    return home


def configure(files, *overrides):
    """The configuration of the flags of `train`."""
    flags = [f"--gin.{flag}" for flag in ("RUN_DIR=run", *overrides)]
    args = SimpleNamespace(gin_file=[*files, "runs/pretrain.gin"], gin_search_paths="", gin_overrides=flags)
    return runtime.from_flags(args)


def macros(config):
    return {binding.macro: binding.value for binding in config.bindings if binding.macro}


def test_paths_are_absolute_and_names_are_not_paths(at_home):
    found = macros(
        configure(FILES, "TRAIN_FILES=text/*.txt", "VALIDATION_FILES=['/b/c.txt', 'd.txt']", "VOCABULARY=bpe")
    )
    escaped = str(at_home).replace("[", "[[]")
    assert found["RUN_DIR"] == f"{at_home}/run" and found["VOCABULARY"] == f"{at_home}/bpe"
    assert found["TRAIN_FILES"] == f"{escaped}/text/*.txt"
    assert found["VALIDATION_FILES"] == ["/b/c.txt", f"{at_home}/d.txt"]
    (at_home / "bytes").mkdir()
    assert macros(configure(FILES, "TRAIN_FILES=a.txt", "VOCABULARY=bytes"))["VOCABULARY"] == "bytes"


def test_paths_of_data_sets_are_absolute_and_splits_are_not(at_home):
    sets = "DATA_SETS={'one': {'train': ['a.txt'], 'vocabulary': 'bpe'}}"
    assert macros(configure(FILES, sets))["DATA_SETS"] == {
        "one": {"train": [f"{at_home}/a.txt"], "vocabulary": f"{at_home}/bpe"}
    }
    sets = "DATA_SETS={'one': {'folder': 'data', 'train': 'train[5%:]'}}"
    assert macros(configure(SPLIT, sets))["DATA_SETS"] == {"one": {"folder": f"{at_home}/data", "train": "train[5%:]"}}


def test_a_saved_configuration_needs_neither_the_folder_nor_the_tokenizer(at_home, tmp_path, monkeypatch):
    config = configure(FILES, "TRAIN_FILES=a.txt", "VOCABULARY=bpe")
    (tmp_path / "config.gin").write_text(config.resolved_config())
    model = config.evaluate("trainer.train.model")
    assert model.vocab_size == load(str(at_home / "bpe")).vocab_size == macros(config)["VOCAB_SIZE"]
    shutil.rmtree(at_home / "bpe")
    monkeypatch.chdir(tmp_path)
    moved = runtime.parse([str(tmp_path / "config.gin")])
    assert moved.resolved_config() == config.resolved_config()
    assert moved.evaluate("trainer.train.model").vocab_size == model.vocab_size


def test_the_size_of_the_vocabulary_is_derived_unless_it_is_given(at_home):
    assert macros(configure(FILES, "TRAIN_FILES=a.txt"))["VOCAB_SIZE"] == SIZES["bytes"]
    assert macros(configure(FILES, "TRAIN_FILES=a.txt", "VOCAB_SIZE=500"))["VOCAB_SIZE"] == 500
    with pytest.raises(ValueError, match="vocabulary='byte' is none of bytes, sp, no tokenizer folder"):
        configure(FILES, "TRAIN_FILES=a.txt", "VOCABULARY=byte")


def test_the_sizes_of_names_are_those_of_the_vocabularies():
    assert vocab_size("bytes") == wrappers.BYTES.plain.vocab_size
    assert set(wrappers.BY_NAME) == set(SIZES)
