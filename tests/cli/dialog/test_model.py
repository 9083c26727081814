"""`InteractiveModel`: its parts agree with each other, with the model's own logits, and with a gradient step by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import t5x_like
from t5x_like.cli.dialog.model import InteractiveModel
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.evaluation.task_evaluation import TaskEvaluation
from t5x_like.models import blocks
from t5x_like.optimizers import core
from t5x_like.serving.options import Options
from t5x_like.serving.requests import Settings
from tests import tiny
from tests.cli.test_hf import folder  # noqa: F401 - a fixture
from tests.evaluation import tasks

TEXT = "the cat"
VOCABULARY = ByteVocabulary()


def make(model, optimizer=None):
    model = model.clone(embed=model.embed.clone(vocab_size=384))
    example = tiny.batch(rows=1, length=4, sides=model.sides)
    params = tiny.init(
        model, {name: x for name, x in example.items() if "target" not in name and "weights" not in name}
    )
    return InteractiveModel(model, params, VOCABULARY, optimizer=optimizer, options=Options(max_length=64, max_rows=2))


def with_stack(model, side="decoder", **changes):
    return model.clone(**{side: getattr(model, side).clone(**changes)})


def variants():
    block = tiny.decoder().decoder.block
    pattern = blocks.Pattern([block, block.clone(placement=blocks.sandwich)])
    post = block.clone(placement=blocks.post)
    return {
        "unrolled": (tiny.decoder(), 2),
        "scanned": (tiny.decoder(scan=True), 2),
        "pattern": (with_stack(tiny.decoder(scan=True), block=pattern, tail=post), 5),
        "post": (with_stack(tiny.decoder(), block=post, norm=None), 2),
        "encoder": (tiny.encoder(scan=True), 2),
    }


@pytest.mark.parametrize("name", variants())
def test_attention_maps_are_probabilities_of_visible_keys_and_the_last_lens_is_the_model(name):
    model, count = variants()[name]
    it = make(model)
    batch = it.read(TEXT)
    length = batch[f"{model.sides[0]}_input_tokens"].shape[1]
    maps = it.attention(TEXT)
    assert maps.shape == (count, tiny.HEADS, length, length) and (maps >= 0).all()
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-5)
    later = np.triu(np.ones((length, length), bool), 1)
    assert (maps[..., later] == 0).all() == (name != "encoder")
    lens = it.logit_lens(TEXT, top=7)
    logits_LV = jax.jit(it.model.apply)({"params": it.params}, batch)[0]
    log_probs, ids = jax.lax.top_k(jax.nn.log_softmax(logits_LV), 7)
    assert lens.ids_NLK.shape == (count, length, 7)
    np.testing.assert_allclose(lens.log_probs_NLK[-1], log_probs, atol=1e-4)
    assert (lens.ids_NLK[-1] == ids).mean() > 0.98  # equal logits may be ranked otherwise
    assert np.abs(lens.log_probs_NLK[0] - lens.log_probs_NLK[-1]).max() > 1e-3


@pytest.mark.parametrize("scan", [False, True])
def test_an_encoder_decoder_shows_the_attention_of_three_parts_and_the_lens_of_its_decoder(scan):
    it = make(tiny.encoder_decoder(scan=scan))
    batch = it.read(TEXT, "a dog")
    sizes = {side: batch[f"{side}_input_tokens"].shape[1] for side in it.model.sides}
    for part, queries, keys in [("encoder",) * 3, ("decoder",) * 3, ("cross", "decoder", "encoder")]:
        maps = it.attention(TEXT, "a dog", part)
        assert maps.shape == (2, tiny.HEADS, sizes[queries], sizes[keys])
        np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-5)
    np.testing.assert_array_equal(maps, it.attention(TEXT, "a dog"))
    lens = it.logit_lens(TEXT, top=3, target="a dog")
    logits_LV = jax.jit(it.model.apply)({"params": it.params}, batch)[0]
    np.testing.assert_allclose(lens.log_probs_NLK[-1], jax.lax.top_k(jax.nn.log_softmax(logits_LV), 3)[0], atol=1e-4)
    assert lens.ids_NLK.shape == (2, sizes["decoder"], 3)


def test_the_layers_of_a_scan_come_in_the_order_of_the_unrolled_ones():
    scanned, unrolled = make(tiny.decoder(scan=True)), make(tiny.decoder())
    layers = scanned.params["decoder"]["layers"]
    split = {f"layer_{i}": jax.tree.map(lambda x, i=i: x[i], layers) for i in range(2)}
    rest = {name: x for name, x in scanned.params["decoder"].items() if name != "layers"}
    unrolled.params = {**scanned.params, "decoder": {**rest, **split}}
    np.testing.assert_allclose(scanned.attention(TEXT), unrolled.attention(TEXT), atol=1e-5)
    np.testing.assert_allclose(
        scanned.logit_lens(TEXT).log_probs_NLK, unrolled.logit_lens(TEXT).log_probs_NLK, atol=1e-4
    )


def test_an_attention_map_is_how_much_a_query_reads_of_each_key():
    it = make(with_stack(tiny.decoder(), repeats=1))
    mixer = it.params["decoder"]["layer_0"]["mixer"]
    embedded = it.params["embed"]
    x_LD = np.asarray(jax.tree.leaves(embedded)[0])[it.read(TEXT)["decoder_input_tokens"][0]]
    x_LD = x_LD / np.sqrt(np.mean(x_LD**2, -1, keepdims=True) + 1e-6)
    q, k = (np.einsum("LD,DHK->HLK", x_LD, mixer[name]["kernel"]) for name in ("query", "key"))
    # The rotation leaves the product of a query and a key at the same position as it is.
    same = np.einsum("HLK,HLK->HL", q, k) / np.sqrt(tiny.HEAD_DIM)
    maps = it.attention(TEXT)[0]
    turned = np.log(maps[:, 1, 1] / maps[:, 1, 0])  # score(1, 1) - score(1, 0)
    half = tiny.HEAD_DIM // 2
    angle = 10000.0 ** (-np.arange(half) / half)
    a = q[:, 1, :half] * np.cos(angle) - q[:, 1, half:] * np.sin(angle)
    b = q[:, 1, half:] * np.cos(angle) + q[:, 1, :half] * np.sin(angle)
    other = np.einsum("HK,HK->H", np.concatenate([a, b], -1), k[:, 0]) / np.sqrt(tiny.HEAD_DIM)
    np.testing.assert_allclose(turned, same[:, 1] - other, atol=1e-4)


def test_a_train_step_is_a_step_down_the_gradient_and_all_parts_see_it():
    it, texts = make(tiny.decoder(), core.sgd(0.5, momentum=0.0)), [TEXT, "a dog"]
    before, settings = it.params, Settings(max_new_tokens=6, stop_ids=False)
    old = it.generate([TEXT], settings)[0][0].log_prob
    ids = [[*VOCABULARY.encode(text), VOCABULARY.eos] for text in texts]

    def loss(params):
        total = 0.0
        for row in ids:  # one row at a time, without padding
            inputs = np.array([[it.scorer.start, *row[:-1]]])
            arrays = {
                "input_tokens": inputs,
                "positions": np.arange(len(row))[None],
                "segment_ids": np.ones_like(inputs),
            }
            logits = it.model.apply({"params": params}, {f"decoder_{name}": x for name, x in arrays.items()})[0]
            total -= jnp.sum(jax.nn.log_softmax(logits)[np.arange(len(row)), np.array(row)])
        return total / sum(map(len, ids))

    value, gradient = jax.jit(jax.value_and_grad(loss))(before)
    metrics = it.train_step(texts)
    assert metrics["loss"] == pytest.approx(float(value), abs=1e-5) and it.steps == 1
    assert metrics["grad_norm"] == pytest.approx(float(optax.tree.norm(gradient)), rel=1e-4)
    for new, old_x, slope in zip(*map(jax.tree.leaves, (it.params, before, gradient)), strict=True):
        np.testing.assert_allclose(new, old_x - 0.5 * slope, atol=1e-5)
    fresh = InteractiveModel(it.model, it.params, VOCABULARY, options=it.options)
    completion = it.generate([TEXT], settings)[0][0]
    assert completion.ids == fresh.generate([TEXT], settings)[0][0].ids and completion.log_prob != old
    assert it.train_step(texts)["loss"] < metrics["loss"]


def test_scores_are_the_log_probabilities_of_the_model():
    it = make(tiny.decoder())
    document, pair = it.score([TEXT, ("the ca", "t")])
    assert document.log_probs_N[-1] == pytest.approx(pair.log_prob, abs=1e-5) and len(pair.targets_N) == 1
    batch = it.text_batch([TEXT])
    logits = jax.nn.log_softmax(jax.jit(it.model.apply)({"params": it.params}, batch)[0])
    count = len(document.targets_N)
    np.testing.assert_allclose(
        document.log_probs_N, logits[np.arange(count), batch["decoder_target_tokens"][0, :count]], atol=1e-5
    )
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        it.score(["a\ud800"])


def test_a_task_is_evaluated_with_the_parameters_of_now(tmp_path):
    examples = [tasks.pair(text, text) for text in ("ab", "cd")]
    cache = tasks.write(tmp_path, "copy", examples, [tasks.named(tasks.METRICS + "likelihood:bits_per_byte")])
    it = make(tiny.decoder(), core.sgd(0.5))
    evaluation = TaskEvaluation(cache, max_new_tokens=4)
    first = it.evaluate(evaluation)["metrics"]
    it.train_step(["ab", "cd"])
    record = it.evaluate(evaluation)
    assert record["step"] == 1 and record["metrics"].keys() == first.keys() and record["metrics"] != first


def test_the_text_of_a_model_has_its_sizes(folder):  # noqa: F811
    it = t5x_like.InteractiveModel.from_run(folder)
    total = sum(x.size for x in jax.tree.leaves(it.params))
    assert f"DecoderOnly with {total:,} parameters" in str(it) and "vocabulary: " in str(it)
    assert it.generate(["a b"], Settings(max_new_tokens=3))[0][0].finish_reason in ("stop", "length")


def test_what_does_not_fit_is_named():
    with pytest.raises(ValueError, match="needs an optimizer"):
        make(tiny.decoder()).train_step([TEXT])
    with pytest.raises(ValueError, match="top=0 is not in 1 .. 384"):
        make(tiny.decoder()).logit_lens(TEXT, top=0)
    with pytest.raises(ValueError, match="target=None: EncoderDecoder needs a target"):
        make(tiny.encoder_decoder()).attention(TEXT)
    with pytest.raises(ValueError, match="target='x': DecoderOnly has no target"):
        make(tiny.decoder()).logit_lens(TEXT, target="x")
    with pytest.raises(ValueError, match="has no attention of part='cross'"):
        make(tiny.decoder()).attention(TEXT, part="cross")
    with pytest.raises(ValueError, match="must be a list of at least one text"):
        make(tiny.decoder(), core.sgd(0.1)).train_step(TEXT)
