"""Token caches: never stale, never partial, and usable without TensorFlow. Real seqio tasks build them."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t5x_like.data.cache import token_cache
from t5x_like.data.cache.token_cache import TokenCache

REPOSITORY = Path(__file__).parents[3]

TASK = """
import functools
import seqio
import tensorflow as tf
from t5x_like.tasks import vocabularies

TEXTS = {"train": ["first text", "second"], "validation": ["third"]}


def texts(split, shuffle_files=False, seed=None):
    spec = {"targets": tf.TensorSpec((), tf.string)}
    return tf.data.Dataset.from_generator(lambda: ({"targets": t} for t in TEXTS[split]), output_signature=spec)


def louder(dataset, ending):
    return dataset.map(lambda x: {"targets": x["targets"] + ending})


def too_large(dataset):
    return dataset.map(lambda x: {"targets": x["targets"] + 1000})


def add(name, *steps):
    tokenize = (seqio.preprocessors.tokenize, seqio.preprocessors.append_eos)
    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(texts, splits=list(TEXTS)),
        preprocessors=[functools.partial(louder, ending="!"), *tokenize, *steps, seqio.CacheDatasetPlaceholder()],
        output_features={"targets": seqio.Feature(vocabularies.BYTES)},
        metric_fns=[],
    )


add("made_up")
add("ids_too_large", too_large)
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """The module `made_up_tasks`, importable by this process and its children."""
    (tmp_path / "made_up_tasks.py").write_text(TASK)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "made_up_tasks.py"


FILES = """

seqio.TaskRegistry.add(
    "from_files",
    source=seqio.TextLineDataSource({"train": FOLDER + "/*.txt"}),
    preprocessors=[lambda dataset: dataset.map(lambda line: {"targets": line}), seqio.preprocessors.tokenize],
    output_features={"targets": seqio.Feature(vocabularies.BYTES, add_eos=False)},
    metric_fns=[],
)
"""


def cache_of(module, split="train", task="made_up", **options):
    return TokenCache(task, split, "made_up_tasks", str(module.parent / "root"), **options)


def texts(cache):
    flat, offsets = cache.tokens("targets"), cache.offsets("targets")
    return [cache.vocabulary.decode(flat[a:b]) for a, b in itertools.pairwise(offsets)]


def test_first_use_builds_and_a_changed_preprocessor_builds_again(module, monkeypatch):
    first = cache_of(module)
    assert texts(first) == ["first text!", "second!"]
    assert first.manifest["inputs"]["modules"].keys() >= {"made_up_tasks", "t5x_like.tasks.vocabularies"}
    first.verify()
    assert first.manifest["inputs"]["module"] == "made_up_tasks"
    (module.parent / "other_tasks.py").write_text(TASK)
    assert (
        TokenCache("made_up", "train", "other_tasks", first.root).find() is None
    )  # another module's task of that name
    built = first.folder.stat().st_mtime_ns
    assert cache_of(module).folder.stat().st_mtime_ns == built  # fresh: read, not built

    module.write_text(TASK.replace('ending="!"', 'ending="?"'))
    second = cache_of(module)
    assert texts(second) == ["first text?", "second?"]
    assert second.manifest["fingerprint"] != first.manifest["fingerprint"]
    assert texts(cache_of(module, fingerprint=first.manifest["fingerprint"])) == ["first text!", "second!"]  # pinned


def test_own_modules_in_the_working_directory_are_found_and_hide_nothing(tmp_path):
    """The installed command, in a folder with names of the package's parts and of modules that it imports."""
    own, programs = tmp_path / "own", tmp_path / "bin"
    for folder in (own / "models", own / "gin_configs", own / "seqio", programs):
        folder.mkdir(parents=True)
    for name in (
        "tasks.py",
        "models/__init__.py",
        "gin_configs/__init__.py",
        "seqio/__init__.py",
        "numpy.py",
        "types.py",
    ):
        (own / name).write_text("raise SystemExit(f'{__file__} was imported')")
    (own / "own_texts.py").write_text("ENDING = '!'\n")
    (own / "own_tasks.py").write_text("from own_texts import ENDING\n" + TASK.replace('ending="!"', "ending=ENDING"))
    (programs / "t5x_like").write_text("import sys\nfrom t5x_like.__main__ import start\nsys.exit(start())\n")
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "T5X_LIKE_CACHE": str(tmp_path / "root")}
    command = [sys.executable, programs / "t5x_like", "cache", "--task=made_up", "--module=own_tasks", "--split=train"]
    made = subprocess.run(command, cwd=own, env=environment, capture_output=True, text=True, timeout=300)
    assert made.returncode == 0, made.stderr
    (manifest,) = (tmp_path / "root").glob("made_up/*/train/manifest.json")
    assert {"own_tasks", "own_texts"} <= json.loads(manifest.read_text())["inputs"]["modules"].keys()


def test_changed_and_added_data_files_are_read_again(module, tmp_path):
    module.write_text(TASK + FILES.replace("FOLDER", repr(str(tmp_path))))
    (tmp_path / "a.txt").write_text("one\n")
    assert texts(cache_of(module, task="from_files")) == ["one"]
    (tmp_path / "b.txt").write_text("two\n")
    assert cache_of(module, task="from_files").find() is None
    assert sorted(texts(cache_of(module, task="from_files"))) == ["one", "two"]
    (tmp_path / "b.txt").write_text("three\n")
    assert cache_of(module, task="from_files").find() is None


def test_two_processes_build_once(module):
    counted = TASK.replace("def louder", "open(__file__ + '.log', 'a').write('x')\n\n\ndef louder")
    counted = counted.replace("lambda: (", "lambda: open(__file__ + '.read', 'a').write('x') and (")
    module.write_text(counted)
    flags = dict(task="made_up", split="train", module="made_up_tasks", root=module.parent / "root")
    command = [sys.executable, "-m", "t5x_like.tasks.caching", *(f"--{k}={v}" for k, v in flags.items())]
    environment = os.environ | {"PYTHONPATH": f"{module.parent}{os.pathsep}{REPOSITORY}"}
    both = [subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert (module.parent / "made_up_tasks.py.log").read_text() == "xx"  # both imported it
    assert (module.parent / "made_up_tasks.py.read").read_text() == "x"  # one read the source
    assert texts(cache_of(module)) == ["first text!", "second!"]


def test_a_folder_that_cannot_be_written_is_named(module):
    (module.parent / "root").write_text("a file")
    with pytest.raises(RuntimeError, match=r"root=.*root cannot be written .*\$T5X_LIKE_CACHE"):
        cache_of(module).ensure()


@pytest.mark.parametrize(
    "task, split, message",
    [
        ("made_upp", "train", "no seqio task 'made_upp' in module 'made_up_tasks'; did you mean one of: made_up"),
        ("made_up", "test", "no split 'test'; it has train, validation"),
        ("ids_too_large", "train", r"document 0 has the id 1\d\d\d in feature 'targets', its vocabulary has 384 ids"),
    ],
)
def test_a_failed_build_says_why_and_leaves_nothing(module, task, split, message):
    with pytest.raises(RuntimeError, match=message):
        cache_of(module, split, task).ensure()
    assert not list((module.parent / "root").rglob(token_cache.MANIFEST))


def test_a_killed_build_leaves_no_cache(module):
    slow = TASK.replace('["first text", "second"]', 'iter(lambda: "text", None)')
    module.write_text(slow)
    flags = dict(task="made_up", split="train", module="made_up_tasks", root=module.parent / "root")
    command = [sys.executable, "-m", "t5x_like.tasks.caching", *(f"--{k}={v}" for k, v in flags.items())]
    paths = f"{module.parent}{os.pathsep}{REPOSITORY}"
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": paths}, stderr=subprocess.DEVNULL)
    while not any(path.stat().st_size for path in (module.parent / "root").rglob("*.tokens")):
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert cache_of(module).find() is None
    module.write_text(TASK)
    assert len(texts(cache_of(module))) == 2
    assert not list((module.parent / "root").rglob(".building_*"))


def test_a_damaged_file_is_named(tiny_root, tmp_path):
    subprocess.run(["cp", "-r", tiny_root / "tiny", tmp_path / "tiny"], check=True)
    cache = TokenCache("tiny", "train", root=str(tmp_path))
    tokens = cache.folder / "targets.tokens"
    original = tokens.read_bytes()
    tokens.write_bytes(original[:-2])
    with pytest.raises(ValueError, match=r"targets.tokens has \d+ bytes, its manifest says \d+: the cache is damaged"):
        _ = TokenCache("tiny", "train", root=str(tmp_path)).manifest
    tokens.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"targets.tokens, bytes 0-\d+ \(block 0 of 1\), do not match"):
        TokenCache("tiny", "train", root=str(tmp_path)).verify()
    (cache.folder / "vocabulary" / "vocabulary.json").write_text("{}")
    with pytest.raises(ValueError, match="vocabulary.json has 2 bytes"):
        _ = TokenCache("tiny", "train", root=str(tmp_path)).manifest


def test_the_manifest_counts_tokens_and_bytes(tiny_root):
    cache = TokenCache("tiny", "train", root=str(tiny_root))
    feature = cache.manifest["features"]["targets"]
    assert feature["tokens"] == len(cache.tokens("targets")) == cache.offsets("targets")[-1]
    assert feature["text_bytes"] == sum(len(text.encode()) for text in texts(cache))
    assert feature["max_id"] == cache.tokens("targets").max()


def test_an_unknown_feature_is_rejected(tiny_root):
    with pytest.raises(ValueError, match="task 'tiny' has no feature 'inputs'; it has \\['targets'\\]"):
        TokenCache("tiny", "train", root=str(tiny_root)).tokens("inputs")


def test_without_tensorflow_training_reads_caches_and_reports_missing_ones(tiny_root, tmp_path):
    program = f"""
import sys
sys.modules["tensorflow"] = sys.modules["seqio"] = sys.modules["tensorflow_datasets"] = None
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *a: None if name in ("seqio", "tensorflow") else real(name, *a)
from t5x_like.cli.main import main
files = ["sizes/llama/tiny.gin", "objectives/causal_lm.gin", "optimizers/adamw.gin", "runs/pretrain.gin"]
flags = ["--gin_file=" + f for f in files] + ["--gin.VOCAB_SIZE=384", "--gin.STEPS=3", "--gin.WARMUP_STEPS=1",
    "--gin.LENGTH=16", "--gin.RUN_DIR={tmp_path}/run", "--gin.trainer.train.log_every=1"]
assert main(["train", *flags, "--gin.TASK=tiny"]) == 0
print("absent:", main(["train", *flags, "--gin.TASK=absent"]))
assert "tensorflow" not in {{name for name, module in sys.modules.items() if module is not None}}
"""
    environment = os.environ | {"T5X_LIKE_CACHE": str(tiny_root), "PYTHONPATH": str(REPOSITORY)}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sorted(set(steps)) == [1, 2, 3]
    assert (
        "absent: 2" in run.stdout and "no token cache of task 'absent'" in run.stderr and "t5x_like cache" in run.stderr
    )
