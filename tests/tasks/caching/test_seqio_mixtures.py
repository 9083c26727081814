"""Mixtures of seqio's registry: training without seqio samples examples at the rates that seqio would."""

import dataclasses
import json

import numpy as np
import pytest

from t5x_like.data import mixing, rows, seqio_mixtures
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.stream import Stream

MODULE = '''"""Two tasks, one of many short documents and one of few long ones, and mixtures of them."""

import functools

import seqio
import tensorflow as tf

from t5x_like.tasks import vocabularies

TEXTS = {"brief": ["ab"] * 90, "lengthy": ["abcdefgh" * 8] * 30}


def source(name, split, shuffle_files, seed=None):
    return tf.data.Dataset.from_tensor_slices({"targets": TEXTS[name]})


for name in TEXTS:
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(functools.partial(source, name), splits=("train",)),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos, seqio.CacheDatasetPlaceholder()],
        output_features={"targets": seqio.Feature(vocabularies.BYTES, add_eos=True)},
        metric_fns=[],
    )
seqio.MixtureRegistry.add("fixed", [("brief", 3.0), ("lengthy", RATE)])
by_size = functools.partial(seqio.mixing_rate_num_examples, maximum=60)
seqio.MixtureRegistry.add("sized", ["brief", "lengthy"], default_rate=by_size)
seqio.MixtureRegistry.add("nested", [("sized", 1.0), ("lengthy", 1.0)])
'''


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A function that makes token caches of tasks in a temporary module."""
    name = "registered_tasks"
    (tmp_path / f"{name}.py").write_text(MODULE.replace("RATE", "1.0"))
    monkeypatch.syspath_prepend(str(tmp_path))
    from t5x_like.tasks.caching import build

    def build_cache(cache):  # in this process, since a new one takes seconds to import TensorFlow
        build.build(cache.task, cache.split, cache.module, cache.root, workers=1)

    monkeypatch.setattr(TokenCache, "build", build_cache)
    return lambda task: TokenCache(task, "train", module=name, root=str(tmp_path / "root"))


def example_share(mixture) -> float:
    """The share of short examples in a window, among the examples that end in it."""
    batch = Stream(mixture, mixture.window)[0]
    ends = (batch["decoder_target_tokens"] == 1).sum(axis=1)
    return float((ends * batch["task_one_hot"][:, list(mixture.components).index("brief")]).sum() / ends.sum())


def test_rates_are_of_examples_as_in_seqio(cache, tmp_path):
    def mixture(tasks):
        return mixing.mix_tasks(lambda cache: rows.CausalLM(cache, 16), cache, tasks)

    assert example_share(mixture("fixed")) == pytest.approx(0.75, abs=0.02)
    sized = mixture("sized")  # min(90, 60) and min(30, 60)
    assert example_share(sized) == pytest.approx(60 / 90, abs=0.02)
    nested = seqio_mixtures.ensure_rates(cache("nested"))
    assert nested["brief"] / nested["lengthy"] == pytest.approx((60 / 90) / (30 / 90 + 1))
    assert mixture("brief").cache.task == "brief"
    with pytest.raises(ValueError, match="no seqio task 'fixd'"):
        mixture("fixd")

    record = tmp_path / "root" / "fixed" / "mixture.json"
    before = record.stat().st_mtime_ns
    assert seqio_mixtures.ensure_rates(cache("fixed")) == {"brief": 3.0, "lengthy": 1.0}
    assert record.stat().st_mtime_ns == before  # the rates were not written again

    content = json.loads(record.read_text())
    assert (content["module"], content["arguments"]) == ("registered_tasks", {})
    assert seqio_mixtures.read_rates(dataclasses.replace(cache("fixed"), module="other_tasks")) is None
    record.write_text(json.dumps(content | {"rates": {"../brief": 3.0}}))
    assert seqio_mixtures.read_rates(cache("fixed")) is None
    record.write_text(json.dumps(content))
    assert seqio_mixtures.read_rates(cache("fixed")) == {"brief": 3.0, "lengthy": 1.0}

    folders = {path: path.stat().st_mtime_ns for path in (tmp_path / "root").glob("*/*/train/targets.tokens")}
    module = tmp_path / "registered_tasks.py"
    module.write_text(MODULE.replace("RATE", "9.0"))
    content = json.loads(record.read_text())
    assert module.stem in content["modules"]
    assert seqio_mixtures.read_rates(cache("fixed")) is None
    assert seqio_mixtures.read_rates(cache("sized")) is None
    assert len(folders) == 2


def test_shares_of_rows_follow_the_lengths_of_documents():
    rates = seqio_mixtures.ExampleRates((1.0, 1.0), (100, 10))([50, 50])
    np.testing.assert_allclose(rates / rates.sum(), [1 / 11, 10 / 11])
