"""Engines of run directories and of folders of Hugging Face."""

import pytest

import t5x_like
from t5x_like.serving.options import Options
from t5x_like.serving.requests import Settings
from tests.cli.test_hf import folder, run_dir  # noqa: F401 - fixtures


def test_an_imported_run_and_its_source_give_the_same_engine(folder, run_dir):  # noqa: F811
    found = []
    for source in (folder, run_dir):
        with t5x_like.Engine.from_run(source, Options(max_length=32, max_rows=2)) as engine:
            completion = engine.complete("a b c", Settings(max_new_tokens=6, temperature=1.0, stop_ids=False))
            found.append((completion.ids, completion.text, completion.log_prob))
    assert found[0] == found[1] and len(found[0][0]) == 6


def test_what_cannot_be_opened_is_named(tmp_path, folder):  # noqa: F811
    with pytest.raises(
        FileNotFoundError, match="nothing does not exist; give a run directory, a folder with config.json"
    ):
        t5x_like.Engine.from_run(tmp_path / "nothing")
    for path in folder.iterdir():
        if not path.name.startswith("tokenizer"):
            (tmp_path / path.name).symlink_to(path)
    with pytest.raises(FileNotFoundError, match=r"has no tokenizer; put tokenizer.json"):
        t5x_like.Engine.from_run(tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'Engines'"):
        t5x_like.Engines  # noqa: B018
