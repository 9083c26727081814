"""Gin files and overrides: their meaning, and errors with the place and the remedy."""

import argparse
import os
from pathlib import Path

import gin
import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from t5x_like.cli.gin import runtime, source
from t5x_like.cli.gin.runtime import ConfigError
from tests.cli import throwaway

HEADER = "from __gin__ import dynamic_registration\nfrom tests.cli import throwaway\n"
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def config(tmp_path, monkeypatch):
    """`config(text, *overrides)` parses a gin text."""
    monkeypatch.chdir(tmp_path)

    def parse(text, *overrides):
        Path("run.gin").write_text(HEADER + text)
        return runtime.parse(["run.gin"], overrides)

    yield parse
    gin.clear_config()


def error_of(config, text, *overrides) -> str:
    with pytest.raises(ConfigError) as info:
        config(text, *overrides)
    return str(info.value)


def test_overrides_win_and_later_files_win(config):
    text = "STEPS = 1\nthrowaway.train.steps = %STEPS\nSTEPS = 2\n"
    assert config(text).bind("throwaway.train")()["steps"] == 2
    assert config(text, "--gin.STEPS=3").bind("throwaway.train")()["steps"] == 3
    assert config(text, "--gin.throwaway.train.steps=4").bind("throwaway.train")()["steps"] == 4
    assert config(text, "--gin.tests.cli.throwaway.train.steps=5").bind("throwaway.train")()["steps"] == 5
    assert config(text).bind("throwaway.train")(steps=6)["steps"] == 6


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("-1.5e3", -1500.0),
        ("'/a b'", "/a b"),
        ("/tmp/x-1", "/tmp/x-1"),
        ("/data/**/a?.txt", "/data/**/a?.txt"),
        ("word", "word"),
        ("True", True),
        ("None", None),
        ("(1, [2, {'a': 3}])", (1, [2, {"a": 3}])),
        ("(%STEPS, 2)", (7, 2)),
        ("~/x", os.path.expanduser("~/x")),
    ],
)
def test_override_values(config, text, value):
    parsed = config("STEPS = 7\nthrowaway.train.steps = %STEPS\n", f"--gin.throwaway.train.shape={text}")
    assert parsed.bind("throwaway.train")()["shape"] == value


@pytest.mark.parametrize("text", ["true", "10k", "a b", "[1,", "", "@throwaway.nothing", "'open"])
def test_invalid_override_values_raise(config, text):
    assert "--gin.STEPS=" in error_of(config, "throwaway.train.steps = %STEPS\n", f"--gin.STEPS={text}")


SCOPED = """
throwaway.train:
  steps = 1
  rows = @train/throwaway.Rows()
throwaway.Rows.cache = @throwaway.Cache()
train/throwaway.Cache.split = 'train'
validation/throwaway.Cache.split = 'validation'
"""


def test_a_reference_inherits_its_scope(config):
    parsed = config(SCOPED)
    assert parsed.evaluate("throwaway.train.rows") == throwaway.Rows(throwaway.Cache("train"))
    assert parsed.bind("throwaway.train")()["rows"].cache.split == "train"


def test_a_macro_keeps_the_scope_of_its_own_reference(config):
    parsed = config(SCOPED + "ROWS = @validation/throwaway.Rows()\nthrowaway.train.rows = %ROWS\n")
    assert parsed.evaluate("throwaway.train.rows").cache.split == "validation"
    assert parsed.evaluate("%ROWS").cache.split == "validation"


def test_a_macro_is_evaluated_outside_the_scope_of_its_use(config):
    """Gin's rule: an unscoped reference in a macro does not see the scope in which the macro is used."""
    parsed = config(
        SCOPED + "throwaway.Cache.split = 'unscoped'\nCACHE = @throwaway.Cache()\nthrowaway.Rows.cache = %CACHE\n"
    )
    assert parsed.evaluate("throwaway.train.rows").cache.split == "unscoped"


def test_evaluate_falls_back_on_the_default(config):
    assert config("throwaway.train.steps = 1\n").evaluate("throwaway.train.shape") == (1,)


MODULES = """
throwaway.train.steps = 1
MODEL = @throwaway.Outer()
throwaway.Outer.inner = @throwaway.Inner()
throwaway.Outer.kind = @throwaway.Inner
throwaway.Inner.width = 5
throwaway.train.rows = %MODEL
throwaway.train.function = @throwaway.double
"""


def test_linen_modules_are_built_copied_and_passed_as_classes(config):
    parsed = config(MODULES)
    model = parsed.evaluate("%MODEL")
    assert type(model) is throwaway.Outer and type(model.inner) is throwaway.Inner
    params = model.init(jax.random.key(0), jnp.ones((1, 4)))["params"]
    widths = {name: params[name]["Dense_0"]["bias"].shape for name in params}
    assert widths == {"first": (5,), "second": (5,), "third": (3,)}
    assert hash(model) == hash(parsed.evaluate("%MODEL").clone()) and isinstance(model, nn.Module)
    assert parsed.bind("throwaway.train")()["function"](3) == 6


@pytest.mark.parametrize(
    "text", [SCOPED, MODULES, "throwaway.train.steps = 1\nthrowaway.train.shape = {'a': [1e-9, %X]}\nX = 'q\"'\n"]
)
def test_the_resolved_text_gives_the_same_configuration(config, tmp_path, monkeypatch, text):
    Path(tmp_path, "base.gin").write_text(HEADER + text)
    parsed = config(
        "include 'base.gin'\nfrom jax import numpy\nthrowaway.train.steps = %STEPS\nSTEPS = 3\n", "--gin.STEPS=4"
    )
    resolved, as_gin = parsed.resolved_config(), gin.config_str()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "config.gin").write_text(resolved)
    monkeypatch.chdir(elsewhere)
    reparsed = runtime.parse([str(elsewhere / "config.gin")])
    assert gin.config_str() == as_gin and "STEPS = 4" in as_gin
    assert reparsed.resolved_config() == resolved


def test_modules_with_the_same_name_are_distinct(config):
    text = (
        "import jax.numpy as np1\nfrom jax.nn import initializers\nfrom flax.linen import initializers as linen_init\n"
    )
    parsed = config(text + "import numpy\nthrowaway.train:\n  steps = 1\n  shape = (@np1.ones, @numpy.ones)\n")
    Path("config.gin").write_text(parsed.resolved_config())
    ours, theirs = runtime.parse(["config.gin"]).evaluate("throwaway.train.shape")
    assert isinstance(ours(1), jax.Array) and not isinstance(theirs(1), jax.Array)


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),
    [
        ("throwaway.train.stpes = 1\n", (), ("run.gin:3", "did you mean steps", "throwaway.train.stpes = 1")),
        ("throwaway.train:\n  steps = 1\n  shap = 2\n", (), ("run.gin:5", "did you mean shape")),
        ("throwaway.trian.steps = 1\n", (), ("run.gin:3", "did you mean train")),
        ("throwawya.train.steps = 1\n", (), ("run.gin:3", "did you mean throwaway")),
        ("throwaway.train.rows = @throwaway.Row()\n", (), ("run.gin:3", "did you mean Rows")),
        ("throwaway.train.rows = [1, (@throwaway.Row(),)]\n", (), ("run.gin:3", "did you mean Rows")),
        ("from t5x_like.training import traner\n", (), ("run.gin:3", "did you mean t5x_like.training.trainer")),
        ("import no_such_package\n", (), ("run.gin:3", "no module no_such_package")),
        ("include 'runs/pretrian.gin'\n", (), ("run.gin:3", "did you mean runs/pretrain.gin")),
        ("include 'run.gin'\n", (), ("run.gin:3", "includes itself")),
        ("throwaway.train.steps = \n", (), ("run.gin:3",)),
        ("throwaway.train.steps = (1,\n", (), ("run.gin",)),
        ("throwaway.train.steps = %STPES\nSTEPS = 1\n", (), ("run.gin", "STPES", "did you mean")),
        ("throwaway.train.steps = %STEPS\nSTEPS = 1\nSTPES = 2\n", (), ("run.gin:5", "did you mean STEPS")),
        (
            "throwaway.train.steps = %TASK\n",
            (),
            ("run.gin:3", "--gin.TASK=", "tasks/files.gin"),
        ),
        ("STEPS = %gin.REQUIRED\nthrowaway.train.steps = %STEPS\n", (), ("run.gin:3", "--gin.STEPS=")),
        ("throwaway.train.steps = %gin.REQUIRED\n", (), ("run.gin:3", "--gin.throwaway.train.steps=")),
        ("throwaway.train.shape = [1, %gin.REQUIRED]\n", (), ("run.gin:3", "--gin.throwaway.train.shape=")),
        ("throwaway.train.steps = %STEPS\nSTEPS = 1\n", ("--gin.STPES=1",), ("--gin.STPES=1", "did you mean STEPS")),
        ("throwaway.train.steps = 1\n", ("--gin.throwaway.train.stpes=1",), ("--gin.throwaway", "did you mean steps")),
        ("throwaway.train.steps = 1\n", ("--gin.STEPS",), ("--gin.NAME=value",)),
    ],
)
def test_mistakes_name_the_place_and_the_remedy(config, text, overrides, expected):
    message = error_of(config, text, *overrides)
    assert all(part in message for part in expected), message


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("TRAIN_STEPS", "T5X's TRAIN_STEPS is here: STEPS"),
        ("MIXTURE_OR_TASK_NAME", "TASK"),
        ("TASK_FEATURE_LENGTHS", "INPUTS_LENGTH and TARGETS_LENGTH"),
        ("DROPOUT_RATE", "DROPOUT"),
        ("MODEL_DIR", "RUN_DIR"),
        ("ANYTHING", "remove it, or add the file that uses it"),
        ("WARMUP_STEPS", "remove it"),  # a packaged file sets it, but nothing uses it here
    ],
)
def test_a_macro_that_nothing_uses_is_refused(config, name, expected):
    text = "throwaway.train.steps = 1\n"
    message = error_of(config, f"{text}{name} = 5\n")
    assert message.startswith(f"run.gin:4: no gin file uses {name}") and expected in message
    override = error_of(config, text, f"--gin.{name}=5")
    assert override.startswith(f"--gin.{name}=5: no gin file uses {name}") and expected in override


def test_a_macro_may_be_used_by_the_command_or_by_an_overwritten_binding(config, tmp_path, monkeypatch):
    parsed = config("STEPS = 1\nthrowaway.train.steps = %STEPS\n", "--gin.throwaway.train.steps=4")
    Path("config.gin").write_text(parsed.resolved_config())
    assert runtime.parse(["config.gin"]).evaluate("throwaway.train.steps") == 4
    monkeypatch.chdir(tmp_path)
    Path("mine.gin").write_text("CHOOSE = 1\n")
    assert runtime.parse(["mine.gin"], read=["CHOOSE"]).evaluate("%CHOOSE") == 1
    with pytest.raises(ConfigError, match="no gin file uses CHOOSE"):
        runtime.parse(["mine.gin"])


def test_a_macro_whose_use_is_replaced_is_refused_with_the_reason(config):
    message = error_of(config, "A = 1\nthrowaway.train.steps = %A\n", "--gin.throwaway.train.steps=4", "--gin.A=5")
    assert message == "--gin.A=5: A is not used, because a later value replaces what used it; give only one of them"


def test_a_resolved_run_keeps_the_unused_macros_of_packaged_files(config):
    Path("config.gin").write_text(config("throwaway.train.steps = 1\n").resolved_config() + "VOCAB_SIZE = 384\n")
    assert runtime.parse(["config.gin"]).evaluate("throwaway.train.steps") == 1
    with open("config.gin", "a") as file:
        file.write("TRAIN_STEPS = 5\n")
    with pytest.raises(ConfigError, match="no gin file uses TRAIN_STEPS"):
        runtime.parse(["config.gin"])


@pytest.mark.parametrize(
    ("annotated", "value"),
    [
        ("steps", "'abc'"),
        ("steps", "1.5"),
        ("steps", "True"),
        ("steps", "None"),
        ("steps", "(1,)"),
        ("rate", "'high'"),
        ("rate", "[0.1]"),
        ("names", "'one'"),
        ("names", "('one', 2)"),
        ("label", "3"),
        ("sizes", "(1, 2, 3)"),
        ("module", "3"),
        ("module", "'x'"),
    ],
)
def test_a_value_of_another_type_is_refused(config, annotated, value):
    text = f"X = 0\nthrowaway.typed.{annotated} = %X\n"
    message = error_of(config, text, f"--gin.X={value}")
    assert message.startswith(f"--gin.X={value}: X=") and f"throwaway.typed.{annotated} must be " in message
    assert "run.gin:3: " in error_of(config, f"throwaway.typed.{annotated} = {value}\n")


def test_values_of_the_right_type_are_accepted(config):
    parsed = config(
        "throwaway.typed:\n  steps = 1\n  rate = 1\n  names = ['a', %NAME]\n  label = None\n  module = None\n  sizes = (1, 2.5)\n"
        "NAME = 'b'\n"
    )
    assert parsed.bind("throwaway.typed")()["names"] == ["a", "b"]


def test_a_macro_that_contains_itself_is_refused(config):
    assert "contains %A" in error_of(config, "A = %B\nB = [%A]\nthrowaway.train.shape = %A\n")


def test_data_is_opened_after_everything_else_is_built(config, monkeypatch):
    monkeypatch.setattr(throwaway, "opened", [])
    parsed = config(
        "throwaway.late:\n  data = @throwaway.open_data()\n  other = @throwaway.open_other()\n"
        "throwaway.open_data.cache = @throwaway.TokenCache\n"
    )
    parsed.bind("throwaway.late")()
    assert throwaway.opened == ["other", "data"]


def test_names_need_an_import_in_their_own_file(config, tmp_path):
    Path(tmp_path, "bare.gin").write_text("throwaway.train.steps = 1\n")
    message = error_of(config, "include 'bare.gin'\n")
    assert "bare.gin:1" in message and "dynamic_registration" in message


def test_missing_parameters_raise_before_the_call(config):
    parsed = config("throwaway.train.rows = @throwaway.Rows()\n")
    with pytest.raises(ConfigError, match=r"throwaway.train needs 'steps'"):
        parsed.bind("throwaway.train")()
    with pytest.raises(ConfigError, match=r"run.gin:3: throwaway.Rows needs 'cache'"):
        parsed.bind("throwaway.train")(steps=1)
    with pytest.raises(ConfigError, match=r"no gin file sets throwaway.train.steps"):
        parsed.evaluate("throwaway.train.steps")
    with pytest.raises(ConfigError, match="is not in the gin files"):
        parsed.bind("throwaway.double")


def test_short_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    packaged = source.PACKAGED / "runs" / "pretrain.gin"
    for name in ("runs/pretrain.gin", "runs/pretrain", "pretrain", "pretrain.gin"):
        assert source.find_file(name, []) == packaged
    with pytest.raises(ConfigError, match="write more of the path"):
        source.find_file("tiny", [])
    (tmp_path / "mine" / "runs").mkdir(parents=True)
    mine = tmp_path / "mine" / "runs" / "pretrain.gin"
    mine.write_text("")
    assert source.find_file("runs/pretrain.gin", [str(tmp_path / "mine")]) == mine
    assert source.find_file("pretrain", [str(tmp_path / "mine")]) == mine


def test_flags(config, tmp_path):
    Path(tmp_path, "run.gin").write_text(HEADER + "throwaway.train.steps = %STEPS\n")
    parser = argparse.ArgumentParser()
    parser.add_argument("--split")
    runtime.add_flags(parser)
    for name in ("a", "b"):
        Path(tmp_path, name).mkdir()
    argv = ["--gin_file=run.gin", "--gin.STEPS=3", "--split", "x", "--gin_search_paths=a,b"]
    args = runtime.parse_args(parser, argv)
    assert args.split == "x" and runtime.from_flags(args).evaluate("throwaway.train.steps") == 3
    assert "--gin.NAME" in parser.format_help()
    args.gin_search_paths = "a,none"
    with pytest.raises(ConfigError, match="--gin_search_paths=a,none: none is not a folder"):
        runtime.from_flags(args)
