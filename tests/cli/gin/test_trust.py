"""Opening the run of somebody else runs none of its code: its configuration names only parts that build models and settings."""

import itertools
import sys
from pathlib import Path

import gin
import pytest

import t5x_like
from t5x_like.cli.gin import runtime, trust
from t5x_like.cli.gin.runtime import ConfigError

HEADER = "from __gin__ import dynamic_registration\nfrom t5x_like.training import trainer\n"


NUMBERS = itertools.count()  # gin registers a function once in a process, so every test has a module of its own


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The name of a module that leaves a file when it is imported."""
    name = f"own_module_{next(NUMBERS)}"
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\ndef build(): return 1\n")
    return name


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """`opened(text, *modules)` reads a run's configuration as a command that opens a run does."""
    monkeypatch.delenv(trust.VARIABLE, raising=False)

    def parse(text, *modules, files=(), **options):
        path = tmp_path / "config.gin"
        path.write_text(HEADER + text)
        config = runtime.parse(files, run=str(path), allowed=modules, **options)
        trust.check_task_modules(config.bindings)
        return config

    yield parse
    gin.clear_config()


ATTACKS = [
    "import os\ntrainer.train.model = @os.system()\nos.system.command = 'touch ran'\n",
    "import own_module\n",
    "from own_module import x\n",
    "import t5x_like.own_module\n",
    "from t5x_like.own_module import x\n",
    "import t5x_like.cli.main\n" + "trainer.train.model = @t5x_like.cli.main.os.system()\n",
    "from t5x_like.cli import main\ntrainer.train.model = @main.main()\n",
    "from t5x_like.cli import main\ntrainer.train.model = @main.importlib.import_module()\n",
    "from t5x_like.cli.gin import runtime\ntrainer.train.model = @runtime.parse()\n",
    "from t5x_like.data.cache import token_cache\ntrainer.train.model = @token_cache.run_with_progress()\n",
    "from t5x_like.data.cache import token_cache\ntrainer.train.model = @token_cache.TokenCache.build()\n",
    "from t5x_like import checkpoints\ntrainer.train.model = @checkpoints.Checkpointer()\n",
    "from t5x_like.text_metrics import execution\ntrainer.train.model = @execution.run()\n",
    "from t5x_like.models import blocks\ntrainer.train.model = @blocks.nn.jit()\n",
    "from t5x_like.models import blocks\nblocks.Callable.x = 1\n",
    "from jax import numpy\ntrainer.train.model = @numpy.load()\nnumpy.load.file = 'x'\n",
    "from jax import numpy\ntrainer.train.model = @numpy.save()\n",
    "trainer.train.model = @trainer.train()\n",
    "trainer.train.model = [{'a': (@trainer.train,)}]\n",
    "MODEL = @trainer.train()\ntrainer.train.model = %MODEL\n",
    "from t5x_like.data.cache import token_cache\ntoken_cache.TokenCache.module = 'own_module'\n",
    "from t5x_like.data.cache import token_cache\ntoken_cache.TokenCache.module = %M\nM = 'own_module'\n",
    "from t5x_like.data.cache import token_cache\na/token_cache.TokenCache.module = 't5x_like.tasks_of_mine'\n",
    "from t5x_like.data.cache import data_sets\ndata_sets.DataSets.module = 'own_module'\n",
    "from jax import numpy\nfrom t5x_like.data.cache import token_cache\ntoken_cache.TokenCache.module = @numpy.int32()\n",
    "include 'attack.gin'\n",
    "trainer.contextlib.ExitStack.x = 1\n",
]


@pytest.mark.parametrize("text", ATTACKS)
def test_a_run_cannot_name_what_writes_or_starts_programs(opened, own, text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(t5x_like, "__path__", [*t5x_like.__path__, str(tmp_path)])  # as a checkout with a run in it
    Path("attack.gin").write_text(f"from __gin__ import dynamic_registration\nimport {own}\n")
    with pytest.raises(ConfigError):
        opened(text.replace("own_module", own))
    assert not (tmp_path / "ran").exists() and own not in sys.modules


ROWS = """
from t5x_like.data import mixing
from t5x_like.data.cache import token_cache
from t5x_like.data.rows import language_model
from t5x_like.data.tokenizers import named
mixing.mix_tasks:
  rows = @language_model.CausalLM
  cache = @token_cache.TokenCache
  tasks = 'x'
token_cache.TokenCache:
  module = 'own_module'
  split = 'train'
language_model.CausalLM.length = 8
"""


@pytest.mark.parametrize(
    "place",
    [
        "trainer.train.model = @mixing.mix_tasks()\n",
        "M = @mixing.mix_tasks()\ntrainer.train.model = [{'a': %M}]\n",
        "V = @named.vocab_size()\nnamed.vocab_size.vocabulary = @mixing.mix_tasks()\ntrainer.train.model = %V\n",
        "include 'runs/inspect.gin'\ntrainer.train.model = @mixing.mix_tasks()\n",
    ],
)
def test_no_part_of_a_run_can_open_data_of_a_foreign_module(own, place, tmp_path, monkeypatch):
    monkeypatch.setenv("T5X_LIKE_CACHE", str(tmp_path))
    (tmp_path / "config.gin").write_text(HEADER + ROWS.replace("own_module", own) + place)
    with pytest.raises(ConfigError, match=f"has tasks of the module {own}"):
        runtime.parse([], run=str(tmp_path / "config.gin")).evaluate("trainer.train.model")
    assert not (tmp_path / "ran").exists()
    gin.clear_config()


def test_the_refusal_names_the_way_to_allow_it(opened):
    with pytest.raises(ConfigError, match=r"config.gin:3: this run imports own_module, .*T5X_LIKE_TRUST=own_module"):
        opened("import own_module\n")


@pytest.mark.parametrize("how", ["flag", "variable", "package"])
def test_the_caller_may_allow_a_module(opened, own, how, monkeypatch, tmp_path):
    text = f"import {own}\ntrainer.train.model = @{own}.build()\n"
    if how == "variable":
        monkeypatch.setenv(trust.VARIABLE, f"other, {own}")
    elif how == "package":
        (tmp_path / "own_package").mkdir()
        (tmp_path / "own_package" / "part.py").write_text("def build(): return 1\n")
        text = "from own_package import part\ntrainer.train.model = @part.build()\n"
    modules = {"flag": [own], "variable": [], "package": ["own_package"]}[how]
    assert opened(text, *modules).evaluate("trainer.train.model") == 1


def test_files_and_overrides_of_the_caller_are_not_limited(opened, own, tmp_path):
    mine = tmp_path / "mine.gin"
    mine.write_text(f"from __gin__ import dynamic_registration\nimport {own}\nCHOOSE = @{own}.build()\n")
    text = "from t5x_like.data.cache import token_cache\ntoken_cache.TokenCache.module = %M\nM = 't5x_like.tasks.corpora'\n"
    config = opened(text, files=[str(mine)], read=["CHOOSE"], overrides=["--gin.M=own_tasks"])
    assert config.evaluate("%CHOOSE") == 1


@pytest.mark.parametrize(
    "files",
    [
        ["sizes/mixtral/tiny.gin", "objectives/causal_lm.gin", "optimizers/adamw.gin", "meshes/data_expert.gin"],
        ["sizes/t5/tiny.gin", "objectives/ul2.gin", "optimizers/adafactor.gin", "precision/bfloat16.gin"],
        ["sizes/bart/tiny.gin", "objectives/bart.gin", "optimizers/lion.gin", "monitors/roll_back.gin"],
        ["sizes/xlnet/tiny.gin", "objectives/permutation_lm.gin", "optimizers/sgd.gin", "monitors/skip.gin"],
        ["sizes/electra_discriminator/tiny.gin", "objectives/replaced_tokens.gin", "optimizers/adamw.gin"],
        ["sizes/albert/tiny.gin", "objectives/sentence_order.gin", "optimizers/adamw.gin", "sweeps/complete_p.gin"],
    ],
)
def test_every_run_of_the_packaged_files_can_be_opened(files, tmp_path):
    flags = {"RUN_DIR": "r", "TASK": "tiny", "GENERATOR_WIDTH": 32, "GENERATOR_HEADS": 2, "GENERATOR_MLP_DIM": 64}
    if "objectives/replaced_tokens.gin" not in files:
        flags = {"RUN_DIR": "r", "TASK": "tiny"}
    files = [files[0], "tasks/python_source_bytes.gin", *files[1:3], "runs/pretrain.gin", *files[3:]]
    config = runtime.parse(files, [f"--gin.{name}={value}" for name, value in flags.items()])
    path = tmp_path / "config.gin"
    path.write_text(config.resolved_config())
    opened = runtime.parse([], run=str(path))
    trust.check_task_modules(opened.bindings)
    assert opened.resolved_config() == config.resolved_config()


def test_a_run_on_own_data_sets_can_be_opened(tmp_path):
    files = [
        "sizes/llama/tiny.gin",
        "tasks/files.gin",
        "objectives/causal_lm.gin",
        "optimizers/adamw.gin",
        "runs/pretrain.gin",
    ]
    sets = "{'web': {'train': '/w/*.txt', 'share': 3}, 'books': {'train': '/b/*.txt', 'share': 1}}"
    config = runtime.parse(files, ["--gin.RUN_DIR=r", f"--gin.DATA_SETS={sets}"])
    (tmp_path / "config.gin").write_text(config.resolved_config())
    opened = runtime.parse([], run=str(tmp_path / "config.gin"))
    trust.check_task_modules(opened.bindings)
    assert opened.evaluate("%TASK") == {"web": 3, "books": 1}
