"""Tasks over the user's data: files, TFDS and datasets folders have disjoint splits and helpful errors."""

import functools
import itertools
import json
from collections import Counter

import pytest

from t5x_like.cli.gin import runtime
from t5x_like.data.tokenizers import vocabularies
from tests.tasks.sources import test_files
from tests.tasks.sources.test_files import lines, save_dataset, sources, tfds_dir  # noqa: F401

pytestmark = pytest.mark.usefixtures("sources")  # TensorFlow is imported once
NUMBER = itertools.count()


def define(module, **arguments):
    """Defines a task with a unique name and returns it."""
    import importlib

    import seqio

    name = f"custom_{next(NUMBER)}"
    importlib.import_module(f"t5x_like.tasks.custom.{module}").define(name, **arguments)
    return seqio.TaskRegistry.get(name)


def texts(task, split, feature="targets"):
    dataset = task.get_dataset(None, split, shuffle=False, trim_output_features=False)
    plain = task.output_features[feature].vocabulary.plain
    return [plain.decode(example[feature]) for example in dataset.as_numpy_iterator()]


@pytest.fixture
def documents(tmp_path):
    """Two files of documents, every third one twice."""
    for name in ("a", "b"):
        lines(tmp_path / f"{name}.jsonl", [{"content": f"document {i // 2 if i % 3 else i}"} for i in range(200)])
    return f"{tmp_path}/*.jsonl"


def test_validation_is_held_out_by_text_and_no_document_is_lost(documents):
    task = define("files", train=documents, text="content", validation_one_in=5)
    train, validation = (Counter(texts(task, split)) for split in ("train", "validation"))
    assert not train & validation
    assert (train + validation).total() == 400
    assert 0.1 < len(validation) / len(train + validation) < 0.3
    more = define("files", train=[documents], text="content", validation_one_in=5)
    assert Counter(texts(more, "validation")) == validation  # independent of the process


def test_dropped_records_are_listed_beside_the_cache(tmp_path):
    from t5x_like.tasks.caching import build

    path = lines(tmp_path / "a.jsonl", [{"text": "one"}, b"{\n", {"text": "two"}, {"body": "three"}])
    other = lines(tmp_path / "b.jsonl", [{"text": "four"}])
    arguments = {"train": str(path), "text": "text", "validation": str(other)}
    folder = build.build("listed", "train", "t5x_like.tasks.custom.files", str(tmp_path / "root"), arguments, workers=1)
    rejects = [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]
    assert [(each["file"], each["record"]) for each in rejects] == [(str(path), 2), (str(path), 4)]
    assert json.loads((folder / "manifest.json").read_text())["documents"] == 2


def test_columns_that_no_field_names_are_not_read(tmp_path):
    nested = test_files.pyarrow.array([[1], [2]], test_files.pyarrow.list_(test_files.pyarrow.timestamp("ns")))
    test_files.parquet.write_table(
        test_files.pyarrow.table({"text": [{"en": "a"}, {"en": "b"}], "times": nested}), tmp_path / "a.parquet"
    )
    from t5x_like.tasks.sources.files import FileSource

    source = FileSource({"train": f"{tmp_path}/a.parquet"}, {"text": "text.en"})
    assert test_files.texts(source) == ["a", "b"] and not source.dropped["train", f"{tmp_path}/a.parquet"]


def test_pairs_with_equal_inputs_are_in_one_split(tmp_path):
    rows = [f"question {i % 60}\tanswer {i}\n".encode() for i in range(180)]
    lines(tmp_path / "a.tsv", [b"q\ta\n", *rows])
    task = define("files", train=str(tmp_path / "a.tsv"), inputs="q", targets="a", validation_one_in=4)
    inputs = [set(texts(task, split, "inputs")) for split in ("train", "validation")]
    assert not inputs[0] & inputs[1] and len(inputs[0] | inputs[1]) == 60 and all(inputs)
    assert len(texts(task, "train")) + len(texts(task, "validation")) == 180


def test_separate_validation_files(tmp_path, documents):
    lines(tmp_path / "v.json.txt", [b"one\n", b"two\n"])
    lines(tmp_path / "t.json.txt", [b"three\n"])
    task = define("files", train=f"{tmp_path}/t*.txt", validation=f"{tmp_path}/v*.txt")
    assert texts(task, "train") == ["three"] and texts(task, "validation") == ["one", "two"]


def test_dataset_folders_use_their_splits_or_hold_out(tmp_path):
    rows = [{"body": f"row {i}"} for i in range(60)]
    save_dataset(tmp_path / "saved", rows, None)
    held = define("hf_dataset", folder=str(tmp_path / "saved"), text="body", validation_one_in=4)
    both = [texts(held, split) for split in ("train", "validation")]
    assert sorted(both[0] + both[1]) == sorted(row["body"] for row in rows) and all(both)
    for name, part in (("train-00000-of-00001", rows[:50]), ("validation", rows[50:])):
        (tmp_path / "hub" / "data").mkdir(parents=True, exist_ok=True)
        lines(tmp_path / "hub" / "data" / f"{name}.jsonl", part)
    own = define("hf_dataset", folder=str(tmp_path / "hub"), text="body")
    assert texts(own, "train") + texts(own, "validation") == [row["body"] for row in rows]


def test_tfds_uses_its_splits_or_holds_out(tfds_dir):  # noqa: F811
    held = define("tfds_dataset", tfds_name="tiny_notes", data_dir=tfds_dir, validation_one_in=5)
    both = [texts(held, split) for split in ("train", "validation")]
    assert Counter(both[0] + both[1]) == Counter(f"note {i}" for i in range(30)) and len(both[1]) == 6
    pairs = {"inputs": "both.en", "targets": "both.fr", "validation": "test"}
    own = define("tfds_dataset", tfds_name="tiny_notes", data_dir=tfds_dir, **pairs)
    assert texts(own, "validation", "inputs") == [x.replace("un", "one") for x in texts(own, "validation")]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": "txet"}, "'targets': 'txet'.*no field 'txet' \\(found: content"),
        ({"text": "number"}, "field 'number', used as targets, is int64, not text"),
        ({"text": "a", "targets": "b"}, "text='a', inputs=None, targets='b': name either one text field"),
        ({"vocabulary": "byte"}, "vocabulary='byte' is none of bytes, sp"),
        ({"metrics": ("exact",)}, "metrics=.* there is no metric 'exact'; known are accuracy, .*exact_match"),
        ({"metrics": ("bootstrap",)}, "there is no metric 'bootstrap'"),
        ({"metrics": "exact_match"}, "metrics=.* the task has no inputs; name their field"),
        ({"validation": "{folder}/b.jsonl"}, "both name .*b.jsonl; give other files"),
        ({"validation": "{folder}/x.jsonl"}, "split 'validation': .*x.jsonl' matches no file"),
        ({"validation_one_in": 10**9}, "validation_one_in=1000000000: no document falls into validation"),
        ({"validation_one_in": 1}, "validation_one_in=1 leaves no training data"),
    ],
)
def test_errors_come_before_tokenization(tmp_path, arguments, message):
    for name in ("a", "b"):
        lines(tmp_path / f"{name}.jsonl", [{"content": "text", "number": 1}])
    arguments = {
        key: str(value).format(folder=tmp_path) if key == "validation" else value for key, value in arguments.items()
    }
    with pytest.raises(ValueError, match=message):
        define("files", **{"train": f"{tmp_path}/*.jsonl", "text": "content"} | arguments)


def test_vocabularies_by_name_folder_and_model_file(tmp_path):
    from t5x_like.tasks import text_tasks
    from t5x_like.tasks.vocabularies import train_sentencepiece

    assert text_tasks.find_vocabulary("bytes").plain == vocabularies.ByteVocabulary()
    model = train_sentencepiece(["a few words", "and some more words"], 372)
    (tmp_path / "own.model").write_bytes(model)
    by_file = text_tasks.find_vocabulary(str(tmp_path / "own.model"))
    assert by_file.plain == vocabularies.SentencePieceVocabulary(model) and by_file.files == (f"{tmp_path}/own.model",)
    (tmp_path / "spiece.model").write_bytes(model)
    assert text_tasks.find_vocabulary(str(tmp_path)).plain.encode("more") == by_file.plain.encode("more")
    (tmp_path / "junk.model").write_bytes(b"junk")
    with pytest.raises(ValueError, match="junk.model is not a SentencePiece model"):
        _ = text_tasks.find_vocabulary(str(tmp_path / "junk.model")).plain


def test_a_cache_depends_on_its_files(documents, tmp_path):
    macros = {
        "TRAIN_FILES": repr(documents),
        "TEXT_FIELD": "content",
        "token_cache.TokenCache.root": str(tmp_path / "root"),
    }
    overrides = [f"--gin.{name}={value}" for name, value in macros.items()]
    config = runtime.parse(["tasks/files.gin"], overrides)
    cache = config.bind("token_cache.TokenCache")(task=config.evaluate("%TASK"), split="train")
    assert cache.manifest["documents"] == len(cache.offsets("targets")) - 1 > 300
    assert cache.vocabulary.vocab_size == config.evaluate("%VOCAB_SIZE")
    again = config.bind("token_cache.TokenCache")(task="files", split="train")
    assert again.find() == cache.folder
    lines(tmp_path / "c.jsonl", [{"content": "one more"}])
    assert again.find() is None


@pytest.fixture
def built_here(monkeypatch):
    """Caches are built in this process, since a new one takes seconds to import TensorFlow."""
    from t5x_like.data.cache.token_cache import TokenCache
    from t5x_like.tasks.caching import build

    def build_here(cache):
        module, arguments = cache.definition
        build.build(cache.task, cache.split, module, cache.root, dict(arguments), workers=1)

    monkeypatch.setattr(TokenCache, "build", build_here)


def test_pairs_are_evaluated_by_metrics_that_are_named_in_gin(tmp_path, built_here):
    from t5x_like.evaluation.examples import read_questions
    from t5x_like.evaluation.task_metrics import TaskMetrics

    lines(tmp_path / "a.jsonl", [{"inputs": f"add {i}", "targets": f"is {i + 1}"} for i in range(60)])
    flags = {"TRAIN_FILES": tmp_path / "a.jsonl", "METRICS": "('exact_match', 'edit_distance')", "VALIDATION_ONE_IN": 5}
    flags |= {"token_cache.TokenCache.root": tmp_path / "root"}
    config = runtime.parse(["tasks/files_pairs.gin"], [f"--gin.{k}={v}" for k, v in flags.items()], read=["TASK"])
    cache = config.bind("token_cache.TokenCache")(task=config.evaluate("%TASK"), split="validation")
    metrics = TaskMetrics.from_cache(cache)
    assert [metric.name for metric in metrics.metrics] == ["exact_match", "edit_distance"]
    assert 0 < len(read_questions(cache, True)) < 30


def test_a_name_means_the_arguments_it_was_defined_with_last(tmp_path):
    import seqio

    from t5x_like.tasks.caching import task_inputs

    def find(name, train, **more):
        arguments = {"train": str(tmp_path / train), "validation_one_in": 2} | more
        return task_inputs.find_task(name, "t5x_like.tasks.custom.files", arguments)

    for name in ("one", "two"):
        lines(tmp_path / f"{name}.jsonl", [{"text": f"{name} {i}"} for i in range(20)])
    first = find("redefined", "one.jsonl")
    assert find("redefined", "one.jsonl") is first
    assert all(text.startswith("two") for text in texts(find("redefined", "two.jsonl"), "train"))
    with pytest.raises(ValueError, match="files.define has no argument 'trian'; it has train, validation"):
        find("redefined", "one.jsonl", trian="x")
    seqio.TaskRegistry.add_provider("taken", first)
    with pytest.raises(ValueError, match="the name 'taken' is that of a registered task"):
        find("taken", "one.jsonl")


def test_several_data_sets_with_shares_are_one_macro(tmp_path, built_here):
    from t5x_like.data import mixing, rows

    for name, count in (("web", 300), ("books", 100)):
        lines(tmp_path / f"{name}.jsonl", [{"text": f"{name} {i}", "body": f"{name} {i}"} for i in range(count)])
    sets = {"web": {"train": f"{tmp_path}/web.jsonl", "share": 1}}
    sets["books"] = {"train": f"{tmp_path}/books.jsonl", "text": "body", "validation_one_in": 5, "share": 3}
    root = f"--gin.token_cache.TokenCache.root={tmp_path}/root"

    def mixture(*flags):
        config = runtime.parse(["tasks/files.gin"], [root, *flags], read=["TASK"])
        cache = functools.partial(config.bind("token_cache.TokenCache"), split="train")
        return mixing.mix_tasks(lambda cache: rows.CausalLM(cache, 16), cache, config.evaluate("%TASK"))

    mixed = mixture(f"--gin.DATA_SETS={sets!r}")
    assert mixed.quotas.tolist() == [2048, 6144]
    documents = {cache.task: cache.manifest["documents"] for cache in mixed.caches}
    assert 270 < documents["web"] < 300 and 60 < documents["books"] < 95
    sets["web"]["share"] = 3
    again = mixture(f"--gin.DATA_SETS={sets!r}")
    assert again.quotas.tolist() == [4096, 4096]
    assert [cache.folder for cache in again.caches] == [cache.folder for cache in mixed.caches]  # not tokenized again
    assert mixture(f"--gin.DATA_SETS={sets!r}", "--gin.TASK=books").cache.folder == mixed.caches[1].folder
    with pytest.raises(ValueError, match="no seqio task 'anything' in module 't5x_like.tasks.pretraining'"):
        mixture(f"--gin.DATA_SETS={sets!r}", "--gin.TASK={'web': 1, 'anything': 1}")


@pytest.mark.parametrize("name", ["files", "files_pairs", "tfds", "hf_dataset"])
def test_the_arguments_of_gin_files_fit_define(name):
    import importlib
    import inspect

    needed = {"TRAIN_FILES": "a", "TFDS_NAME": "b", "FOLDER": "c"}
    text = (test_files.Path(runtime.__file__).parents[3] / "gin_configs/tasks" / f"{name}.gin").read_text()
    flags = [f"--gin.{macro}={value}" for macro, value in needed.items() if f"{macro} =" in text]
    config = runtime.parse([f"tasks/{name}.gin"], flags)
    cache = config.bind("token_cache.TokenCache")(task=name, split="train")
    module_name, arguments = cache.definition
    module = importlib.import_module(module_name)
    bound = inspect.signature(module.define).bind(name, **json.loads(json.dumps(arguments)))
    assert {"files_pairs": "files"}.get(name, name) in module_name and config.evaluate("%TASK") == name
    other = config.bind("token_cache.TokenCache")(task="anything", split="train")
    assert other.definition == ("t5x_like.tasks.pretraining", {})
    for key, parameter in inspect.signature(module.define).parameters.items():
        has_default = key in bound.arguments and parameter.default is not parameter.empty
        if has_default and key not in ("columns", "metrics", "text", "inputs", "targets"):
            assert bound.arguments[key] == parameter.default
