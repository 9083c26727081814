"""`t5x_like export`: what was exported equals the live run, in a process that has neither this package nor flax."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from t5x_like import prompt_batches
from t5x_like.batching import embedding, generation
from t5x_like.cli import hf, main
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.decoding.beams import BeamSearch
from t5x_like.decoding.processors import NoRepeatNGram, RepetitionPenalty
from t5x_like.decoding.sampling import Greedy, Sample
from t5x_like.exporting import programs, run
from t5x_like.models import positions
from tests import tiny

N, SEED = 5, 7
LIMIT = f"--max_new_tokens={N}"
VOCABULARY = ByteVocabulary()
MODELS = {
    "decoder": tiny.decoder(),
    "table": tiny.decoder(position=positions.Learned(32)),
    "encoder_decoder": tiny.encoder_decoder(),
    "encoder": tiny.encoder(),
}
# Flags that choose tokens, and what they choose.
DECODING = {
    "decoder": (["--gin_file=decoding/top_k.gin"], Sample(top_k=40), ()),
    "encoder_decoder": (["--gin_file=decoding/penalties.gin"], Greedy(), (RepetitionPenalty(1.2), NoRepeatNGram(4))),
}
# Two batch sizes and two lengths, also of one token.
BATCHES = [["def f", "x"], ["class A: pass  # a longer prompt", "é", "y = 1"]]

# Calls every function of the folder in the working directory on the arrays of a file.
CALL = """
import sys
for name in ("t5x_like", "models", "flax", "tensorflow"):
    sys.modules[name] = None
import numpy as np
sys.path.insert(0, ".")
import run
inputs, programs = np.load(sys.argv[1]), run.load(".")
results = {}
for key in {key.rpartition("/")[0] for key in inputs}:
    name = key.partition("/")[0]
    arguments = [inputs[f"{key}/{x['name']}"] for x in run.read_manifest(".")["functions"][name]["inputs"]]
    results |= {f"{key}/{output}": x for output, x in programs[name](*arguments).items()}
np.savez(sys.argv[2], **results)
"""
CALL_TENSORFLOW = """
import sys
for name in ("t5x_like", "models", "flax", "jax"):
    sys.modules[name] = None
import numpy as np, tensorflow as tf
inputs, model = np.load(sys.argv[1]), tf.saved_model.load(".")
results = {}
for key in {key.rpartition("/")[0] for key in inputs}:
    arguments = {name.rpartition("/")[2]: tf.constant(x) for name, x in inputs.items() if name.startswith(f"{key}/")}
    results |= {f"{key}/{output}": x for output, x in model.signatures[key.partition("/")[0]](**arguments).items()}
np.savez(sys.argv[2], **results)
"""


def random_params(model):
    """Parameters without compiling the model's `init`."""
    shapes = nn.unbox(jax.eval_shape(model.init, jax.random.key(0), tiny.batch(2, 8, model.sides))["params"])
    random = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(random.normal(0, 0.3, x.shape), x.dtype), shapes)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{name: (run directory, model, parameters)}."""
    made = {}
    for name, model in MODELS.items():
        model = model.clone(embed=model.embed.clone(vocab_size=VOCABULARY.vocab_size))
        params = random_params(model)
        folder = tmp_path_factory.mktemp(name)
        hf.write_run(folder, model, params, {"model_type": "tiny"}, VOCABULARY)
        made[name] = folder, model, params
    return made


def export(run_dir, out, *flags):
    assert main.main(["export", f"--run_dir={run_dir}", f"--out={out}", *flags]) == 0
    return out


def call(folder, code, **inputs):
    """The results of the folder's functions, computed by another process: {"function/case": {name: array}}."""
    arrays = {f"{key}/{name}": x for key, case in inputs.items() for name, x in case.items()}
    np.savez(folder / "inputs.npz", **arrays)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    command = [sys.executable, "-c", code, "inputs.npz", "outputs.npz"]
    process = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    results = {}
    for key, x in np.load(folder / "outputs.npz").items():
        case, _, name = key.rpartition("/")
        results.setdefault(case, {})[name] = x
    return results


def token_ids(texts, model):
    return [prompt_batches.prompt_ids({"prompt": text}, VOCABULARY, model.encoder_decoder) for text in texts]


def prompts_of(batches, model, length=None):
    cases = {}
    for i, texts in enumerate(batches):
        tokens, lengths = run.pad(token_ids(texts, model), length)
        cases[f"predict/{i}"] = {"tokens": tokens, "lengths": lengths, "seed": np.int32(SEED)}
    return cases


def generate(model, params, texts, sampler, processors):
    """What `t5x_like infer` computes."""
    batch = prompt_batches.make_prompt_batch(VOCABULARY, model.encoder_decoder, False, token_ids(texts, model))
    decode = jax.jit(generation.make_decode_fn(model, VOCABULARY, sampler, N, processors))
    return decode(params, batch | {"keys": generation.row_keys(SEED, range(len(texts)))})


def log_softmax_of(logits_BLV, targets_BL):
    logits_BLV = np.asarray(logits_BLV, np.float64)
    logits_BLV -= logits_BLV.max(-1, keepdims=True)
    log_probs_BLV = logits_BLV - np.log(np.exp(logits_BLV).sum(-1, keepdims=True))
    return np.take_along_axis(log_probs_BLV, targets_BL[..., None], axis=-1)[..., 0]


def random_rows(rows, length, seed):
    random = np.random.default_rng(seed)
    return random.integers(3, 300, (rows, length)).astype(np.int32), random.integers(1, length + 1, rows).astype(
        np.int32
    )


def check_generated(results, model, params, batches, sampler, processors):
    for i, texts in enumerate(batches):
        expected = programs.without_shapes(generate(model, params, texts, sampler, processors))
        got = results[f"predict/{i}"]
        assert set(got) == set(expected)
        for name, x in expected.items():
            if name in ("tokens", "lengths"):
                assert np.array_equal(got[name], x), (texts, name)
            else:
                np.testing.assert_allclose(got[name], x, rtol=0, atol=1e-5)


def score_cases(model):
    if model.encoder_decoder:
        names, shapes = ("inputs", "input_lengths", "tokens", "lengths"), [((2, 5), (2, 3)), ((3, 4), (3, 9))]
    else:
        names, shapes = ("tokens", "lengths"), [((2, 5),), ((3, 9),)]
    cases = {}
    for i, shape in enumerate(shapes):
        arrays = [x for j, each in enumerate(shape) for x in random_rows(*each, seed=10 * i + j)]
        cases[f"score/{i}"] = dict(zip(names, arrays, strict=True))
    return cases


def check_scores(results, cases, model, params):
    """Against the whole forward pass on rows with more padding, in NumPy from there on."""
    apply = jax.jit(lambda params, batch: model.apply({"params": params}, batch))
    for key, case in cases.items():
        rows = [ids[:length] for ids, length in zip(case["tokens"], case["lengths"], strict=True)]
        targets, _ = run.pad(rows, 16)
        if model.encoder_decoder:
            inputs = [ids[:length] for ids, length in zip(case["inputs"], case["input_lengths"], strict=True)]
            batch = prompt_batches.pad_rows(inputs, 16, "encoder")
            batch |= prompt_batches.pad_rows([[0, *ids[:-1]] for ids in rows], 16, "decoder")
            expected = log_softmax_of(apply(params, batch), targets)
        else:
            logits = apply(params, prompt_batches.pad_rows(rows, 16, "decoder"))
            expected = np.pad(log_softmax_of(logits[:, :-1], targets[:, 1:]), ((0, 0), (1, 0)))
        width = case["tokens"].shape[1]
        expected = np.where(np.arange(width) < case["lengths"][:, None], expected[:, :width], 0)
        np.testing.assert_allclose(results[key]["log_probs"], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["decoder", "encoder_decoder"])
def test_stablehlo_equals_the_live_run(runs, tmp_path, name):
    run_dir, model, params = runs[name]
    folder = export(run_dir, tmp_path / "out", LIMIT, *DECODING[name][0])
    scores = score_cases(model)
    results = call(folder, CALL, **prompts_of(BATCHES, model), **scores)
    check_generated(results, model, params, BATCHES, *DECODING[name][1:])
    check_scores(results, scores, model, params)


def test_beams_for_fixed_sizes_equal_those_of_the_live_run(runs, tmp_path):
    run_dir, model, params = runs["encoder_decoder"]
    flags = [LIMIT, "--functions=predict", "--gin_file=decoding/beam.gin", "--gin.BEAMS=3", "--gin.RETURNED=2"]
    folder = export(run_dir, tmp_path / "out", *flags, "--batch_size=2", "--length=40")
    batches = [texts[:2] for texts in BATCHES]
    results = call(folder, CALL, **prompts_of(batches, model, 40))
    check_generated(results, model, params, batches, BeamSearch(3, returned=2), ())


@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs TensorFlow")
def test_a_saved_model_equals_the_live_run(runs, tmp_path):
    run_dir, model, params = runs["decoder"]
    folder = export(run_dir, tmp_path / "out", LIMIT, "--format=saved_model", "--functions=predict")
    results = call(folder, CALL_TENSORFLOW, **prompts_of(BATCHES, model))
    check_generated(results, model, params, BATCHES, Greedy(), ())


def test_an_encoder_is_exported(runs, tmp_path):
    run_dir, model, params = runs["encoder"]
    tokens, lengths = run.pad([VOCABULARY.encode_special(text) for text in BATCHES[1]])
    masked = np.where(np.arange(tokens.shape[1]) == 1, 300, tokens).astype(np.int32)
    results = call(
        export(run_dir, tmp_path / "out"),
        CALL,
        **{"encode/0": {"tokens": tokens, "lengths": lengths}},
        **{"score/0": {"tokens": masked, "lengths": lengths, "targets": tokens}},
    )
    embeddings = embedding.Embedder(model, VOCABULARY, batch_size=3)(params, BATCHES[1])
    np.testing.assert_allclose(results["encode/0"]["embedding"], embeddings, rtol=0, atol=1e-5)
    real_BL = np.arange(tokens.shape[1]) < lengths[:, None]
    batch = prompt_batches.pad_rows([row[:length] for row, length in zip(masked, lengths, strict=True)], 64, "encoder")
    logits = jax.jit(model.apply)({"params": params}, batch)[:, : tokens.shape[1]]
    expected = np.where(real_BL, log_softmax_of(logits, tokens), 0)
    np.testing.assert_allclose(results["score/0"]["log_probs"], expected, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def exported(runs, tmp_path_factory):
    return export(runs["decoder"][0], tmp_path_factory.mktemp("exported") / "out", LIMIT)


def test_the_manifest_describes_the_folder(runs, exported):
    manifest, params = run.read_manifest(exported), runs["decoder"][2]
    assert manifest["jax"] == {"minimum_version": jax.__version__, "calling_convention_version": 10}
    assert manifest["platforms"] == ["cpu", "cuda", "tpu"] and manifest["step"] == 0
    assert manifest["vocabulary"]["fingerprint"] == VOCABULARY.fingerprint
    assert [x["name"] for x in manifest["parameters"]] == list(programs.flat(params))
    assert manifest["model"]["parameters"] == sum(x.size for x in jax.tree.leaves(params))
    tokens, *_ = manifest["functions"]["predict"]["inputs"]
    assert tokens == {"name": "tokens", "dtype": "int32", "shape": ["batch", "length"]}
    assert {x["name"]: x["shape"] for x in manifest["functions"]["predict"]["outputs"]}["tokens"] == ["batch", N]


def test_parameters_are_arguments_in_the_order_of_the_manifest(exported, runs):
    """Other parameters in the file give the results of another model."""
    model, params = runs["decoder"][1:]
    other = jax.tree.map(lambda x: x + 0.1 * jnp.sin(jnp.arange(x.size)).reshape(x.shape), params)
    manifest, (tokens, lengths) = run.read_manifest(exported), random_rows(2, 6, seed=3)
    program = jax.export.deserialize(bytearray((exported / "score.jax_export").read_bytes()))
    shapes = [(x["dtype"], tuple(x["shape"])) for x in manifest["parameters"]]
    assert [(x.dtype.name, x.shape) for x in program.in_avals[: len(shapes)]] == shapes
    case = {"score/0": {"tokens": tokens, "lengths": lengths}}
    got = run.read_program(exported, manifest, "score", programs.flat(other))(tokens, lengths)
    check_scores({"score/0": got}, case, model, other)


def test_the_code_of_the_readme_runs(exported):
    blocks = re.findall(r"```python\n(.*?)```", (exported / "README.md").read_text(), re.DOTALL)
    code = "import sys; sys.path.insert(0, '.'); seed = 0\n" + "\nfirst = out\n".join(blocks)
    code += "\nassert len(first) == 3 and all(np.array_equal(first[name], out[name]) for name in first)"
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    subprocess.run([sys.executable, "-c", code], cwd=exported, env=environment, check=True)


def test_text_in_and_text_out(exported, runs, capsys):
    run_dir = runs["decoder"][0]
    assert main.main(["infer", f"--run_dir={run_dir}", "--prompt=def", LIMIT, "--compile_cache="]) == 0
    assert run.generate("def", exported) == json.loads(capsys.readouterr().out)["completion"]


def change_byte(content, place=-3):
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.fixture
def copied(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copied")


@pytest.mark.parametrize(
    "file, damage, message",
    [
        ("parameters.safetensors", change_byte, r"parameters.safetensors is damaged at head/"),
        ("parameters.safetensors", lambda content: content[:-4], r"parameters.safetensors is damaged"),
        ("parameters.safetensors", lambda content: content.replace(b"/query/", b"/qxery/"), "is damaged at .*/query/"),
        ("score.jax_export", change_byte, "score.jax_export is damaged; copy the folder again"),
        ("vocabulary/vocabulary.json", lambda content: content.replace(b"125", b"124"), "vocabulary.json is damaged"),
    ],
)
def test_damage_is_found(copied, file, damage, message):
    (copied / file).write_bytes(damage((copied / file).read_bytes()))
    with pytest.raises(ValueError, match=message):
        run.load(copied)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"format_version": 2}, "format_version=2, this run.py reads 1"),
        (
            {"jax": {"minimum_version": "9.0.0", "calling_convention_version": 99}},
            "convention 99, jax .* install jax 9.0.0",
        ),
    ],
)
def test_other_versions_are_refused(copied, change, message):
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(json.dumps(manifest | change))
    with pytest.raises(ValueError, match=message):
        run.load(copied)


def test_an_older_jax_is_warned_of(copied):
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["jax"]["minimum_version"] = "99.0.1"
    (copied / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match="exported with jax 99.0.1"):
        run.load(copied)


@pytest.mark.parametrize(
    "name, flags, message",
    [
        (
            "encoder",
            ["--functions=predict"],
            "--functions=predict is not one of score, encode, the functions of EncoderOnly",
        ),
        ("decoder", ["--functions=score,perplexity"], "--functions=perplexity is not one of predict, score"),
        ("decoder", ["--platforms=cpu,gpu"], "--platforms=gpu is not one of cpu, cuda, rocm, tpu"),
        ("decoder", ["--format=onnx"], "--format=onnx is not one of stablehlo, saved_model"),
        ("decoder", ["--batch_size=some"], "'some' is not a whole number"),
        ("decoder", ["--functions=score", "--gin_file=decoding/top_k.gin"], "--gin_file is for predict"),
        ("decoder", ["--functions=score", LIMIT], "--max_new_tokens is for predict"),
        ("encoder", [LIMIT], "--max_new_tokens is for predict"),
        ("decoder", ["--gin_file=decoding/top_k.gin", "--gin.TOP_K=999"], "top_k=999 is larger than the vocabulary"),
        ("encoder_decoder", ["--prefix"], "--prefix is for decoder-only models"),
        ("table", ["--max_new_tokens=32"], "max_new_tokens=32 leaves no room for a prompt"),
        ("table", ["--length=28", LIMIT], "length=28 is longer than the 27 tokens"),
        ("table", ["--length=33", "--functions=score"], "length=33 is longer than the 32 tokens"),
    ],
)
def test_refusals(runs, tmp_path, capsys, name, flags, message):
    command = ["export", f"--run_dir={runs[name][0]}", f"--out={tmp_path / 'out'}", *flags]
    assert main.main(command) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_is_not_replaced(runs, tmp_path, capsys):
    (tmp_path / "mine").write_text("")
    assert main.main(["export", f"--run_dir={runs['decoder'][0]}", f"--out={tmp_path}"]) == 2
    assert "already exists; give a new folder" in capsys.readouterr().err


def test_a_saved_model_needs_tensorflow(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    command = ["export", f"--run_dir={runs['decoder'][0]}", f"--out={tmp_path / 'out'}", "--format=saved_model"]
    assert main.main(command) == 2
    assert "--format=saved_model needs TensorFlow" in capsys.readouterr().err


def test_a_position_table_limits_the_symbolic_length(runs, tmp_path):
    folder = export(runs["table"][0], tmp_path / "out", LIMIT)
    ranges = {name: x["ranges"]["length"] for name, x in run.read_manifest(folder)["functions"].items()}
    assert ranges == {"predict": [2, 32 - N], "score": [2, 32]}
    assert run.load(folder)["score"](*random_rows(2, 32, seed=0))["log_probs"].shape == (2, 32)


@pytest.mark.parametrize(
    "tokens, lengths, message",
    [
        ((2, 1), 2, r"tokens has shape \[2, 1\]"),
        ((2, 3), 3, r"lengths has shape \[3\]"),
        ((3,), 3, r"tokens has shape \[3\]"),
    ],
)
def test_other_shapes_are_refused(exported, tokens, lengths, message):
    with pytest.raises(ValueError, match=f"score: {message}, it must be"):
        run.load(exported)["score"](np.zeros(tokens), np.ones(lengths))
