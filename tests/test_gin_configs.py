"""Every gin file is used by a run that takes a step, in the combinations that the run files describe."""

import json
from pathlib import Path

import numpy as np
import pytest

from t5x_like.cli import setup
from t5x_like.cli.gin import runtime
from t5x_like.cli.gin.runtime import ConfigError
from t5x_like.data.tokenizers import folder as tokenizer_folder
from t5x_like.data.tokenizers import training
from t5x_like.decoding.beams import BeamSearch
from t5x_like.decoding.processors import NoRepeatNGram, RepetitionPenalty
from t5x_like.decoding.proposers import PromptLookup
from t5x_like.decoding.sampling import Sample
from t5x_like.run_dir import RunDir
from tests.data.tokenizers import tiny_tokenizers
from tests.gin_models import CONFIGS, TINY, family_of
from tests.tasks.custom.test_files import built_here  # noqa: F401
from tests.training.test_monitor import write_reference

# family: (objective, task); all families take a step in test_gin_architectures, other kinds with the objectives and meshes below
FAMILIES = {
    "gpt2": ("prefix_lm", "tiny"),
    "llama": ("causal_lm", "tiny"),
    "mixtral": ("causal_lm", "tiny"),
    "bert": ("masked_lm", "tiny"),
    "t5_1_1": ("span_corruption", "tiny"),
    "switch_t5": ("seq2seq", "pairs"),
}
# objective: (family, task) where no family above is trained with it
OBJECTIVES = {
    "ul2": ("ul2", "tiny"),
    "ul2_prefix_lm": ("llama", "tiny"),
    "bart": ("bart", "tiny"),
    "whole_word_masked_lm": ("roberta", "tiny"),
    "next_sentence": ("bert", "tiny"),
    "sentence_order": ("albert", "tiny"),
    "replaced_tokens": ("electra_discriminator", "tiny"),
    "permutation_lm": ("xlnet", "tiny"),
    "fill_in_the_middle": ("code_llama", "tiny"),
    "instruction": ("llama", "pairs"),
}
PEFT = [("bert", "bitfit"), *(("llama", name) for name in ("lora", "rslora", "dora", "qlora", "ia3", "layer_norm"))]
PEFT += [
    ("t5_1_1", "prompt"),
    ("llama", "prefix"),
    ("t5_1_1", "houlsby"),
    ("llama", "pfeiffer"),
    ("mixtral", "parallel_adapter"),
]
NEEDED = {"replaced_tokens": {"GENERATOR_WIDTH": 32, "GENERATOR_HEADS": 2, "GENERATOR_MLP_DIM": 64}}
PAIRED = ("span_corruption", "seq2seq", "ul2")  # objectives with two lengths
SMALL = {
    "STEPS": 2,
    "WARMUP_STEPS": 1,
    "BATCH_SIZE": 8,
    "VOCAB_SIZE": 384,
    "trainer.train.log_every": 1,
    "trainer.Evaluation.batches": 1,
}
SHORT = {"LENGTH": 32}, {"INPUTS_LENGTH": 48, "TARGETS_LENGTH": 32}


def train(root, run_dir, family, *files, optimizer="adamw", objective=None, **macros):
    objective, task = FAMILIES[family] if objective is None else (objective, OBJECTIVES[objective][1])
    macros = SMALL | SHORT[objective in PAIRED] | {"TASK": task, "RUN_DIR": run_dir} | macros
    overrides = [f"--gin.{name}={value}" for name, value in macros.items()]
    overrides.append(f"--gin.token_cache.TokenCache.root={root}")
    names = (f"sizes/{family}/tiny", f"objectives/{objective}", f"optimizers/{optimizer}", "runs/pretrain", *files)
    config = runtime.parse([f"{name}.gin" for name in names], overrides)
    config.bind("trainer.train")(config=config.resolved_config())
    lines = [json.loads(line) for line in (Path(run_dir) / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2 and all(0 < loss < 20 for loss in losses)
    return losses


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5_1_1", "switch_t5"])
def test_every_kind_of_family_trains(tiny_root, tmp_path, family):
    train(tiny_root, tmp_path, family)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_trains(tiny_root, tmp_path, objective):
    train(tiny_root, tmp_path, OBJECTIVES[objective][0], objective=objective, **NEEDED.get(objective, {}))


@pytest.mark.parametrize("optimizer", ["adafactor", "lion", "sgd"])
def test_every_optimizer_trains(tiny_root, tmp_path, optimizer):
    train(tiny_root, tmp_path, "llama", optimizer=optimizer)


@pytest.mark.parametrize("family, method", PEFT)
def test_every_method_of_tuning_trains(tiny_root, tmp_path, family, method):
    train(tiny_root, tmp_path, family, f"peft/{method}")
    assert (tmp_path / "frozen").exists()


def test_a_method_of_tuning_before_the_run_file_or_beside_frozen_patterns_is_refused():
    files = ["sizes/llama/tiny.gin", "optimizers/adamw.gin", "objectives/causal_lm.gin"]
    macros = ["--gin.TASK=tiny", "--gin.INITIAL=/tmp/base", "--gin.RUN_DIR=/tmp/run"]
    with pytest.raises(
        ConfigError, match=r"lora.gin:22: the transform t5x_like.peft.lora:LoRA is replaced by .*Freeze"
    ):
        runtime.parse([*files, "peft/lora.gin", "runs/finetune.gin"], macros)
    frozen = """--gin.FROZEN=('embed',)"""
    runtime.parse([*files, "runs/finetune.gin"], [*macros, frozen])
    with pytest.raises(
        ConfigError, match=r"FROZEN is not used, because t5x_like.peft.lora:LoRA chooses what is trained"
    ):
        runtime.parse([*files, "runs/finetune.gin", "peft/lora.gin"], [*macros, frozen])


@pytest.mark.parametrize("family, mesh", [("llama", "fsdp"), ("llama", "data_fsdp_tensor"), ("mixtral", "data_expert")])
def test_every_mesh_trains(tiny_root, tmp_path, family, mesh):
    train(tiny_root, tmp_path, family, f"meshes/{mesh}")
    assert "mesh {" in (tmp_path / "model_info.txt").read_text()


def test_mixed_precision_is_close_to_float32(tiny_root, tmp_path):
    plain = train(tiny_root, tmp_path / "a", "llama")
    mixed = train(tiny_root, tmp_path / "b", "llama", "precision/bfloat16")
    assert plain != mixed
    assert mixed == pytest.approx(plain, rel=2e-2)


def test_the_resolved_configuration_repeats_the_run(tiny_root, tmp_path):
    first = train(tiny_root, tmp_path / "a", "llama")
    config = runtime.parse([str(tmp_path / "a" / "config.gin")], [f"--gin.RUN_DIR={tmp_path / 'b'}"])
    config.bind("trainer.train")(config=config.resolved_config())
    lines = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    assert [line["loss"] for line in lines if "loss" in line] == first


def run(files, root, run_dir, **macros) -> dict:
    """Trains a run file that stands alone for two steps; returns the last line of metrics.jsonl."""
    macros = SMALL | SHORT[0] | {"RUN_DIR": run_dir, "token_cache.TokenCache.root": root} | macros
    config = runtime.parse(files, [f"--gin.{name}={value}" for name, value in macros.items()])
    config.bind("trainer.train")(config=config.resolved_config())
    return json.loads((Path(run_dir) / "metrics.jsonl").read_text().splitlines()[-1])


def test_instruction_tuning_starts_from_a_run(tiny_root, tmp_path):
    files = ["sizes/llama/tiny.gin", "optimizers/adamw.gin"]
    text = [*files, "objectives/causal_lm.gin", "runs/pretrain.gin"]
    before = run(text, tiny_root, tmp_path / "base", TASK="tiny", LENGTH=256)
    tuned = {"TASK": "pairs", "INITIAL": tmp_path / "base", "LENGTH": 256}
    after = run([*files, "runs/sft.gin"], tiny_root, tmp_path / "tuned", **tuned)
    assert before["eval/loss"] > 0 and after["eval/target_tokens"] > 0


RECIPES = {
    "alpaca": (
        {"instruction": "Add.", "input": "1 + 1", "output": "2"},
        {"instruction": "Hi.", "output": "Hello."},
    ),
    "vicuna": ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]},) * 2,
    "flan": (),
    "code_llama": (),
}


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_start_from_a_run(name, tiny_root, tmp_path, built_here):  # noqa: F811
    size = "code_llama" if name == "code_llama" else "llama"
    macros = {"TASK": "pairs" if name == "flan" else "tiny", "EVAL_TASKS": (), "LENGTH": 128}
    if RECIPES[name]:
        folder = tmp_path / "tokenizer"
        tokenizer_folder.export(training.train("bpe", tiny_tokenizers.TEXTS, 384), folder)
        places = [tmp_path / "train.jsonl", tmp_path / "validation.jsonl"]
        for place, record in zip(places, RECIPES[name], strict=True):
            place.write_text(json.dumps(record) + "\n")
        macros |= {"VOCABULARY": folder, "TRAIN_FILES": places[0], "VALIDATION_FILES": places[1]}
        del macros["TASK"]
    text = ["sizes/llama/tiny.gin", "optimizers/adamw.gin", "objectives/causal_lm.gin", "runs/pretrain.gin"]
    run(text, tiny_root, tmp_path / "base", TASK="tiny", LENGTH=64)
    last = run(
        [f"sizes/{size}/tiny.gin", f"runs/{name}.gin"],
        tiny_root,
        tmp_path / "tuned",
        INITIAL=tmp_path / "base",
        **macros,
    )
    assert last["eval/target_tokens"] > 0
    template = RunDir(tmp_path / "tuned").vocabulary / "chat_template.jinja"
    assert template.exists() == bool(RECIPES[name])
    if template.exists():
        assert template.read_text() == (CONFIGS / f"chat_templates/{name}.jinja").read_text()


def test_text_and_instructions_train_together(tiny_root, tmp_path):
    files = ["sizes/llama/tiny.gin", "optimizers/adamw.gin", "runs/multitask.gin"]
    last = run(files, tiny_root, tmp_path, TASK="pairs", TEXT_TASK="tiny", LENGTH=256)
    assert {"eval/tiny/loss", "eval/pairs/loss"} <= last.keys()


def test_encoder_decoders_mix_spans_and_instructions(tiny_root):
    macros = {"TEXT_ROWS": "@rows.SpanCorruption", "ROWS": "@rows.PackedExamples", "TASK": "pairs", "TEXT_TASK": "tiny"}
    macros |= {
        "INPUTS_LENGTH": 128,
        "TARGETS_LENGTH": 64,
        "RUN_DIR": "/nowhere",
        "token_cache.TokenCache.root": tiny_root,
    }
    files = ["sizes/t5_1_1/tiny.gin", "optimizers/adamw.gin", "runs/multitask.gin"]
    mixture = runtime.parse(files, [f"--gin.{name}={value}" for name, value in macros.items()]).evaluate("%TRAIN_ROWS")
    assert list(mixture.components) == ["tiny", "pairs"] and mixture.lengths == {"encoder": 128, "decoder": 64}


@pytest.mark.parametrize("name", sorted(path.name for path in (CONFIGS / "decoding").glob("*.gin")))
def test_every_decoding_file_builds(name):
    config = runtime.parse([f"decoding/{name}"], read=setup.DECODING)
    sampler, processors, proposer = setup.read_speculative(config)
    assert (proposer == PromptLookup(8)) == (proposer is not None) == (name == "prompt_lookup.gin")
    assert callable(sampler) or isinstance(sampler, BeamSearch)
    assert all(map(callable, processors)) and bool(processors) == (name == "penalties.gin")


def test_processors_are_chosen_beside_any_sampler():
    files, overrides = ["decoding/penalties.gin", "decoding/min_p.gin"], ["--gin.NO_REPEAT_NGRAM=3", "--gin.MIN_P=0.2"]
    config = runtime.parse(files, overrides, read=setup.DECODING)
    assert setup.read_decoding(config) == (Sample(min_p=0.2), [RepetitionPenalty(1.2), NoRepeatNGram(3)])
    with pytest.raises(
        ConfigError, match="PROPOSE=PromptLookup.*: only infer has speculative decoding; leave out the gin"
    ):
        setup.read_decoding(runtime.parse(["decoding/prompt_lookup.gin"], read=setup.DECODING))
    with pytest.raises(ConfigError, match="no gin file sets CHOOSE"):
        setup.read_decoding(runtime.parse(["meshes/fsdp.gin"], read=setup.DECODING))
    with pytest.raises(ConfigError, match="TEMPERATURE='hot': sampling.Sample.temperature must be"):
        runtime.parse(["decoding/min_p.gin"], ["--gin.TEMPERATURE='hot'"], read=setup.DECODING)


@pytest.mark.parametrize("name", ["quickstart", "grokking"])
def test_a_standalone_run_file_is_complete(name):
    config = runtime.parse([f"runs/{name}.gin"], ["--gin.RUN_DIR=/nowhere"])
    assert config.evaluate("trainer.train.model").decoder.repeats >= 1


def test_induction_trains_without_data(tmp_path):
    last = run(["runs/induction.gin"], tmp_path / "no_cache", tmp_path, WIDTH=16, HEAD_DIM=8, MLP_DIM=32, LENGTH=64)
    assert last["eval/target_tokens"] == 8 * 64


@pytest.mark.parametrize("name", ["complete_p", "qk_norm"])
def test_the_settings_of_sweeps_train(tiny_root, tmp_path, name):
    train(tiny_root, tmp_path, "llama", f"sweeps/{name}")


@pytest.mark.parametrize("action", ["skip", "roll_back"])
def test_every_monitor_file_runs(tiny_root, tmp_path, action):
    write_reference(tmp_path / "reference", np.linspace(1, 0, 1000), np.linspace(6, 5, 1000))
    files, reference = [f"monitors/{action}", "monitors/expected"], repr(str(tmp_path / "reference"))
    train(tiny_root, tmp_path / "run", "llama", *files, REFERENCE=reference)


def test_every_file_is_tested():
    used = {
        "runs/pretrain",
        "runs/finetune",
        "runs/quickstart",
        "runs/grokking",
        "runs/induction",
        "runs/inspect",
        "runs/info",
        "runs/sft",
        "runs/multitask",
        *(f"runs/{name}" for name in RECIPES),
        "precision/bfloat16",
        "optimizers/adamw",
    }
    used |= {f"optimizers/{name}" for name in ("adafactor", "lion", "sgd")}
    used |= {f"monitors/{name}" for name in ("skip", "roll_back", "expected")}
    used |= {f"peft/{method}" for _, method in PEFT}
    used |= {f"meshes/{name}" for name in ("fsdp", "data_fsdp_tensor", "data_expert")}
    used |= {f"objectives/{objective}" for objective, _ in FAMILIES.values()}
    used |= {f"objectives/{objective}" for objective in OBJECTIVES}
    used |= {f"architectures/{family_of(size)}" for size in TINY}
    # decoding/ is built above, cleaning/ and sweeps/ in tests/cli, tasks/ in tests/tasks; sizes/ are counted in test_families
    found = {str(path.relative_to(CONFIGS).with_suffix("")) for path in CONFIGS.rglob("*.gin")}
    assert {
        name for name in found if not name.startswith(("cleaning/", "decoding/", "sweeps/", "tasks/", "sizes/"))
    } == used
    assert {name.split("/")[1] for name in found if name.startswith("sizes/")} == {family_of(size) for size in TINY}
