"""Rows declare their own features, and everything that takes batches takes them; what is not as declared is refused."""

import dataclasses
from collections.abc import Mapping

import jax
import numpy as np
import pytest

from t5x_like import batches, optimizers, partitioning
from t5x_like.batches import Feature
from t5x_like.data import rows
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.mixing import Mixture
from t5x_like.data.stream import Stream
from t5x_like.objectives.lm import LanguageModel
from t5x_like.optimizers import schedules
from tests import tiny

IMAGE, REWARD = Feature((4, 4, 3), "float32"), Feature((), "float32", pad=-1.0)


@dataclasses.dataclass(frozen=True)
class Pictures(rows.CausalLM):
    """Text with an image and a reward per row; `declared` and `dtype` make mistakes."""

    declared: Mapping[str, Feature] = dataclasses.field(default_factory=lambda: {"image": IMAGE, "reward": REWARD})
    dtype: str = "float32"

    @property
    def extra_features(self):
        return self.declared

    def fetch(self, index_n, epoch_n, seed):
        batch = super().fetch(index_n, epoch_n, seed)
        image = np.broadcast_to(index_n[:, None, None, None], (len(index_n), 4, 4, 3)).astype(self.dtype)
        return batch | {"image": image, "reward": index_n.astype(np.float32)}


@pytest.fixture(scope="module")
def cache(tiny_root):
    return TokenCache("tiny", "train", root=str(tiny_root))


@pytest.fixture(scope="module")
def pictures(cache):
    return Pictures(cache, 16)


def test_the_abstract_batch_is_the_batch(cache, pictures):
    for rows_ in (
        pictures,
        Mixture([pictures, rows.PrefixLM(cache, 16)], (1.0, 1.0), window=16),
        rows.MaskedLM(cache, 16),
    ):
        shapes = {name: (x.shape, x.dtype) for name, x in batches.abstract(rows_, 8).items()}
        assert shapes == {name: (x.shape, x.dtype) for name, x in Stream(rows_, 8)[3].items()}


def test_declared_features_go_through_the_stream(pictures):
    batch = Stream(pictures, 8, seed=1)[2]
    assert batch["image"].shape == (8, 4, 4, 3)
    np.testing.assert_array_equal(batch["image"][:, 0, 0, 0], batch["reward"])
    own = pictures.fetch(batch["reward"].astype(np.int64), np.zeros(8, np.int64), 1)
    np.testing.assert_array_equal(own["decoder_target_tokens"], batch["decoder_target_tokens"])


def test_a_mixture_pads_what_a_component_does_not_have(cache, pictures):
    mixture = Mixture([pictures, rows.PrefixLM(cache, 16)], (3.0, 1.0), window=32)
    stream = Stream(mixture, 32)
    batch = stream[1]
    prefix = batch["task_one_hot"][:, 1] == 1
    assert prefix.sum() == 8
    assert (batch["reward"][prefix] == -1).all() and (batch["reward"][~prefix] >= 0).all()
    assert not batch["image"][prefix].any() and not batch["decoder_prefix"][~prefix].any()
    assert batch["decoder_prefix"][prefix].any(axis=1).all()
    for start in range(32):  # every slice has every feature
        part = stream.slice(1, start, start + 1)
        assert part.keys() == batch.keys()
        for name, x in part.items():
            np.testing.assert_array_equal(x, batch[name][start : start + 1])


def test_a_batch_with_images_lies_on_its_devices(pictures):
    mesh, stream = partitioning.make_mesh(data=4, fsdp=2), Stream(pictures, 16)
    placed = partitioning.global_batch(
        lambda start, stop: stream.slice(5, start, stop), 16, partitioning.batch_sharding(mesh)
    )
    for name, x in stream[5].items():
        np.testing.assert_array_equal(placed[name], x)
        assert {shard.data.shape for shard in placed[name].addressable_shards} == {(2, *x.shape[1:])}
    abstract = batches.abstract(pictures, 16)
    compiled = jax.jit(lambda batch: batch["image"].mean() * batch["reward"].sum()).lower(abstract).compile()
    assert np.isfinite(compiled(jax.device_get(placed)))


def test_features_are_split_by_their_logical_axes(cache):
    axes = {"image": dataclasses.replace(IMAGE, axes=("height", None, None)), "reward": REWARD}
    pictures, mesh = Pictures(cache, 16, axes), partitioning.make_mesh(data=4, tensor=2)
    rules, stream = (*partitioning.RULES, ("height", "tensor")), Stream(pictures, 16)
    shardings = partitioning.batch_shardings(batches.features(pictures), mesh, rules)
    placed = partitioning.global_batch(lambda start, stop: stream.slice(5, start, stop), 16, shardings)
    for name, x in stream[5].items():
        np.testing.assert_array_equal(placed[name], x)
        shape = (4, 2, 4, 3) if name == "image" else (4, *x.shape[1:])
        assert {shard.data.shape for shard in placed[name].addressable_shards} == {shape}
    step = jax.jit(lambda batch: batch["image"].mean(), in_shardings=(shardings,))
    assert step(placed) == stream[5]["image"].mean()
    with pytest.raises(ValueError, match="no rule for the logical axis 'height'"):
        partitioning.batch_shardings(axes, mesh)
    with pytest.raises(ValueError, match="feature 'odd': dimension 'height' of size 3 is not a multiple of the 2"):
        partitioning.batch_shardings({"odd": Feature((3,), axes=("height",))}, mesh, rules)
    with pytest.raises(ValueError, match="differ in length"):
        Feature((3, 3), axes=("height",))


def test_a_run_trains_and_evaluates_on_declared_features(cache, tmp_path):
    axes = {"image": dataclasses.replace(IMAGE, axes=("height", None, None)), "reward": REWARD}
    pictures, mesh = Pictures(cache, 16, axes), partitioning.make_mesh(data=2, tensor=2, devices=jax.devices()[:4])
    model = tiny.decoder()
    model = model.clone(embed=model.embed.clone(vocab_size=384))
    arguments = dict(
        model=model, objective=LanguageModel(), optimizer=optimizers.adamw(schedules.constant(1e-2, 3)),
        steps=1, batch_size=8, mesh=mesh, rules=(*partitioning.RULES, ("height", "tensor")),
    )  # fmt: skip
    metrics = [
        tiny.train(run_dir=str(tmp_path / name), train_rows=kind, eval_rows=kind, **arguments)
        for name, kind in (("text", rows.CausalLM(cache, 16)), ("pictures", pictures))
    ]
    assert metrics[0]["loss"] == metrics[1]["loss"]


def test_once_masks_by_declared_masks_and_leaves_other_features(cache):
    mask = Feature((), "float32", pad=-1.0, mask=True)
    rows_ = Pictures(cache, 16, {"image": IMAGE, "reward": mask})
    size = len(rows_)
    last = list(Stream(rows_, size - 3).once())[-1]
    assert (last["reward"][3:] == -1).all() and (last["reward"][:3] >= 0).all()
    assert not last["decoder_loss_weights"][3:].any() and (last["image"][3:] == size - 1).all()


@pytest.mark.parametrize(
    ("declared", "options", "message"),
    [
        ({"image": IMAGE}, {}, r"returns the feature 'reward', which is not declared; declare it in extra_features"),
        ({"image": IMAGE, "rewards": REWARD}, {}, r"'reward', which is not declared; did you mean 'rewards'"),
        ({"image": IMAGE, "reward": REWARD, "label": Feature((1,))}, {}, r"declares \['label'\], which fetch does not"),
        ({"image": Feature((4, 4), "float32"), "reward": REWARD}, {}, r"float32\[1, 4, 4, 3\].* declared is float32\[1, 4, 4\]"),
        ({"image": IMAGE, "reward": REWARD}, {"dtype": "float64"}, r"'image' as float64.* declared is float32"),
        ({"decoder_positions": Feature((16,))}, {}, r"declares \['decoder_positions'\], which are common features"),
    ],
)  # fmt: skip
def test_what_is_not_as_declared_is_refused(cache, declared, options, message):
    rows_ = Pictures(cache, 16, declared, **options)
    with pytest.raises(ValueError, match=message):
        batches.abstract(rows_, 8)
    if "decoder_positions" not in declared:
        with pytest.raises(ValueError, match=message):
            batches.abstract(Mixture([rows_, rows.CausalLM(cache, 16)], (1.0, 1.0), window=8), 8)


def test_components_that_declare_one_name_differently_are_refused(cache, pictures):
    other = Pictures(cache, 16, {"image": IMAGE, "reward": dataclasses.replace(REWARD, pad=0)})
    with pytest.raises(ValueError, match="declare 'reward' differently"):
        Mixture([pictures, other])


@pytest.mark.parametrize(
    ("group", "size", "microbatches", "devices", "fits"),
    [(2, 8, 1, 8, "16"), (4, 48, 2, 4, "32 or 64"), (3, 4, 1, 1, "3 or 6")],
)
def test_a_batch_that_splits_groups_is_refused(group, size, microbatches, devices, fits):
    with pytest.raises(ValueError, match=f"batch_size={size} is not a multiple of .* groups of {group}.*use {fits}"):
        batches.check_groups(group, size, microbatches, devices)
    batches.check_groups(group, group * microbatches * devices, microbatches, devices)
