"""The embedded corpus and its tasks, read through seqio."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from t5x_like.cli.gin import runtime
from t5x_like.data.tokenizers import loading, vocabularies
from t5x_like.tasks import corpora

CONFIGS = Path(__file__).parents[2] / "gin_configs" / "tasks"


@pytest.fixture(scope="module")
def seqio(tmp_path_factory):
    """Returns seqio with the tasks registered, and an empty cache folder for the SentencePiece model."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("T5X_LIKE_CACHE", str(tmp_path_factory.mktemp("cache")))
        import seqio

        from t5x_like.tasks import mixtures, pretraining  # noqa: F401 - register their tasks

        yield seqio


def test_no_file_is_in_both_splits_and_validation_is_about_a_twentieth():
    names = {split: {name for name, _ in corpora.read_sources(split)} for split in corpora.SPLITS}
    assert not names["train"] & names["validation"]
    share = len(names["validation"]) / sum(map(len, names.values()))
    assert 0.02 < share < 0.1
    assert not any("test" in Path(name).parts for name in names["train"])


def test_signatures_and_docstrings_are_pairs():
    text = 'class A(B):\n  """What A is."""\n  def f(self, x=1) -> int:\n    """Does f."""\n  def g(self): pass\n'
    assert list(corpora.find_definitions(text)) == [
        ("class A(B):", "What A is."),
        ("def f(self, x=1) -> int:", "Does f."),
    ]
    assert list(corpora.find_definitions("not python (")) == []


def test_importing_tasks_loads_no_tensorflow():
    program = "import sys, t5x_like.tasks; assert 'tensorflow' not in sys.modules and 'seqio' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=CONFIGS.parents[1])


# Data sets need data, and have their own tests.
REGISTERED = sorted(path.stem for path in CONFIGS.glob("*.gin") if "DATA_SETS = " not in path.read_text())


@pytest.mark.parametrize("name", REGISTERED)
def test_tasks_of_gin_files_have_ids_in_range_and_decode_to_their_text(seqio, name):
    config = runtime.parse([str(CONFIGS / f"{name}.gin")])
    task = seqio.TaskRegistry.get(config.evaluate("%TASK"))
    dataset = task.get_dataset(None, "validation", shuffle=False, trim_output_features=False)
    source = next(iter(task.source.get_dataset("validation", shuffle=False).as_numpy_iterator()))
    example = next(iter(dataset.as_numpy_iterator()))
    for feature, spec in task.output_features.items():
        plain, ids = spec.vocabulary.plain, example[feature]
        assert plain.vocab_size == config.evaluate("%VOCAB_SIZE")
        assert ids.max() < plain.vocab_size and ids[-1] == vocabularies.EOS
        text = source[feature if feature in source else "text"].decode()
        assert plain.decode(ids) == text
        assert plain.bytes_per_token_V[ids].sum() == len(text.encode())


def test_byte_ids_equal_those_of_seqio(seqio):
    text = "naïve ✓ code\n\tx = 1"
    theirs, ours = seqio.ByteVocabulary(extra_ids=125), vocabularies.ByteVocabulary()
    assert ours.encode(text) == list(theirs.encode(text))
    assert ours.vocab_size == theirs.vocab_size == 384


def test_sentencepiece_ids_equal_those_of_the_library_and_are_lossless(seqio, tmp_path):
    from t5x_like.tasks.vocabularies import SENTENCEPIECE

    plain = SENTENCEPIECE.plain
    for text in ("def f(x):\n    return  x\t# ✓ é 漢\n", " leading", "", "\n\n"):
        assert plain.encode(text) == plain.processor.encode(text)
    # The library decodes the last ones to spaces.
    for text in ("<s> <0x41>\x00", "def f(x):\n    return  x\t# ✓ é 漢\n", "", "▁", "a ▁b", "▁▁ "):
        assert plain.decode(plain.encode(text)) == text
        assert plain.bytes_per_token_V[plain.encode(text)].sum() == len(text.encode())
    plain.save(tmp_path)
    again = loading.load(tmp_path)
    assert again.fingerprint == plain.fingerprint and again.encode("import os") == plain.encode("import os")
    assert vocabularies.mask_id(plain) == 8192 - 100


def test_sentencepiece_training_is_deterministic(seqio):
    from t5x_like.tasks.vocabularies import train_sentencepiece

    texts = [text for _, text in corpora.read_sources("validation")][:4]
    assert train_sentencepiece(texts, 700) == train_sentencepiece(texts, 700)


@pytest.mark.parametrize("vocabulary", [vocabularies.ByteVocabulary(), vocabularies.ByteVocabulary(extra_ids=5)])
def test_byte_vocabularies_are_saved_and_loaded(vocabulary, tmp_path):
    vocabulary.save(tmp_path)
    assert loading.load(tmp_path) == vocabulary
    every = bytes(range(256)).decode("latin-1")
    assert vocabulary.decode([*vocabulary.encode(every), 1, 99]) == every
    assert np.array_equal(np.flatnonzero(vocabulary.bytes_per_token_V), np.arange(3, 259))
