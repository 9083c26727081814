"""Sources: fixed order, shards that add up to the split, and a count of every dropped record."""

import gzip
import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")
zstandard = pytest.importorskip("zstandard")


@pytest.fixture(scope="module")
def sources():
    """Returns t5x_like.tasks.sources.files, with the sources of its sibling modules."""
    from t5x_like.tasks.sources import arrow
    from t5x_like.tasks.sources import files as sources
    from t5x_like.tasks.sources import tfds as sources_tfds

    sources.ArrowSource, sources.find_splits_by_name = arrow.ArrowSource, arrow.find_splits_by_name
    sources.TfdsSource = sources_tfds.TfdsSource
    return sources


def read(source, split="train", **options):
    return list(source.get_dataset(split, shuffle=False, **options).as_numpy_iterator())


def texts(source, split="train", field="text", **options):
    return [example[field].decode() for example in read(source, split, **options)]


def lines(path: Path, records) -> Path:
    path.write_bytes(b"".join(r if isinstance(r, bytes) else json.dumps(r).encode() + b"\n" for r in records))
    return path


def write_every_format(folder: Path, rows: list[dict]) -> None:
    """Writes the same rows in every format, one file each."""
    jsonl = lines(folder / "a.jsonl", rows).read_bytes()
    (folder / "b.jsonl.gz").write_bytes(gzip.compress(jsonl))
    (folder / "c.jsonl.zst").write_bytes(zstandard.compress(jsonl))
    table = [",".join(rows[0]), *(",".join(f'"{value}"' for value in row.values()) for row in rows)]
    (folder / "d.csv").write_text("\n".join(table) + "\n")
    (folder / "e.tsv").write_text("\n".join("\t".join(map(str, row)) for row in (rows[0], *(r.values() for r in rows))))
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "f.parquet")
    (folder / "g.txt").write_text("".join(row["text"] + "\n" for row in rows))


def test_every_format_gives_the_same_texts_in_the_order_of_file_names(sources, tmp_path):
    rows = [{"text": f"text {i} é漢", "other": f"o{i}"} for i in range(4)]
    write_every_format(tmp_path, rows)
    source = sources.FileSource({"train": f"{tmp_path}/*"}, {"targets": "text"})
    assert texts(source, field="targets") == [row["text"] for row in rows] * 7
    assert [Path(shard).name[0] for shard in source.list_shards("train")] == list("abcdefg")


def test_shards_add_up_to_the_split(sources, tmp_path):
    import seqio

    for name in range(5):
        lines(tmp_path / f"{name}.jsonl", [{"text": f"{name} {i}"} for i in range(name)])
    files = sources.FileSource({"train": f"{tmp_path}/*.jsonl"}, ["text"])
    generated = sources.GeneratorSource(numbered, ["train"], num_shards=5)
    for source in (files, generated):
        whole = texts(source)
        shards = source.list_shards("train")
        parts = [texts(source, shard_info=seqio.ShardInfo(i, 5)) for i in range(5)]
        assert list(itertools.chain(*parts)) == whole
        assert parts == [[e["text"].decode() for e in source.examples("train", shard)] for shard in shards]
        halves = [texts(source, shard_info=seqio.ShardInfo(i, 2)) for i in range(2)]
        assert Counter(halves[0] + halves[1]) == Counter(whole) and len(whole) >= 10
        shuffled = [x["text"].decode() for x in source.get_dataset("train", shuffle=True, seed=1).as_numpy_iterator()]
        assert shuffled != whole and Counter(shuffled) == Counter(whole)
        with pytest.raises(ValueError, match="num_shards=6 is more than the 5 shards of 'train'"):
            texts(source, shard_info=seqio.ShardInfo(0, 6))


def numbered(split, shard, num_shards):
    return ({"text": f"{split} {i}"} for i in range(23) if i % num_shards == shard)


GOOD = {"text": "good", "n": 1}
BAD = {
    "reading.invalid_json": [b"{not json\n", b"[1, 2]\n", b'"text"\n'],
    "reading.invalid_utf8": [b'{"text": "\xff\xfe"}\n', b'{"text": "\\ud800", "n": 1}\n'],
    "reading.missing_field": [{"n": 1}, {"text": None, "n": 2}, {"text": "no n"}],
    "reading.wrong_type": [
        {"text": 5, "n": 1},
        {"text": ["a"], "n": 1},
        {"text": "t", "n": "1"},
        {"text": "t", "n": 2**70},
    ],
}


def test_every_line_is_an_example_or_counted_as_dropped(sources, tmp_path):
    records = [GOOD, *(each for bad in BAD.values() for each in bad), b"\x00\x01\x80binary\xff\n", GOOD]
    path = str(lines(tmp_path / "a.jsonl", records))
    source = sources.FileSource({"train": path}, ["text", "n"])
    expected = Counter({rule: len(bad) for rule, bad in BAD.items()} | {"reading.invalid_utf8": 3})
    for _ in range(2):  # the counts are reset when reading starts again
        assert len(read(source)) + source.dropped["train", path].total() == len(records)
        assert source.dropped["train", path] == expected


def test_dropped_records_are_listed_by_shard_and_number(sources, tmp_path):
    records = [
        GOOD,
        b"{not json\n",
        GOOD | {"n": 2},
        {"n": 1},
        b'{"text": "deep", "n": ' + b"[" * 600 + b"]" * 600 + b"}\n",
    ]
    paths = [str(lines(tmp_path / f"{name}.jsonl", records)) for name in "ab"]
    source = sources.FileSource(
        {"train": paths}, ["text", "n"], split_filter=lambda split, example: {1: True}[int(example["n"])]
    )
    source.rejects = tmp_path / "rejects"
    for _ in range(2):  # the lists are begun anew when reading starts again
        assert texts(source) == ["good", "good"]
        for path in paths:
            listed = map(json.loads, (source.rejects / sources.rejects_name(path)).read_text().splitlines())
            rules = ("reading.invalid_json", "error.split_filter", "reading.missing_field", "reading.invalid_json")
            assert [(each["file"], each["record"], each["rule"]) for each in listed] == [
                (path, *x) for x in enumerate(rules, 2)
            ]


def test_an_odd_first_record_does_not_set_the_kind_of_a_field(sources, tmp_path):
    path = lines(tmp_path / "a.jsonl", [{"text": 5, "n": 1}, GOOD, {"text": "other", "n": 0.5}])
    source = sources.FileSource({"train": str(path)}, ["text", "n"])
    assert [float(example["n"]) for example in read(source)] == [1, 0.5]
    assert source.dropped["train", str(path)] == {"reading.wrong_type": 1}


@pytest.mark.parametrize("rule", BAD)
def test_strict_errors_name_file_and_record(sources, tmp_path, rule):
    path = lines(tmp_path / "a.jsonl", [*[GOOD] * 150, BAD[rule][-1]])
    source = sources.FileSource({"train": str(path)}, ["text", "n"], strict=True)
    with pytest.raises(ValueError, match=f"{path}, record 151: {rule}: .*; fix it") as raised:
        list(source.examples("train", str(path)))
    with pytest.raises(Exception, match="record 151"):
        read(source)
    assert str(source.failure) == str(raised.value)


def test_a_line_of_100_megabytes_is_dropped(sources, tmp_path):
    path = tmp_path / "a.jsonl"
    with open(path, "wb") as f:
        f.write(b'{"text": "before"}\n{"text": "')
        for _ in range(100):
            f.write(b"x" * 1_000_000)
        f.write(b'"}\n{"text": "after"}\n')
    source = sources.FileSource({"train": str(path)}, ["text"], max_bytes=10_000)
    assert texts(source) == ["before", "after"]
    assert source.dropped["train", str(path)] == {"reading.long_line": 1}


def test_an_empty_file_is_counted_and_an_empty_split_is_refused(sources, tmp_path):
    (tmp_path / "a.txt").touch()
    lines(tmp_path / "b.txt", [b"text\n"])
    source = sources.FileSource({"train": f"{tmp_path}/*.txt", "test": f"{tmp_path}/a.txt"}, ["text"])
    assert texts(source) == ["text"]
    assert source.dropped["train", f"{tmp_path}/a.txt"] == {"reading.empty_file": 1}
    with pytest.raises(ValueError, match="split 'test'.*a.txt.*hold no record"):
        read(source, "test")


def test_damaged_files_give_the_examples_before_the_damage(sources, tmp_path):
    rows = [{"text": f"text {i} {'x' * 50}"} for i in np.random.default_rng(0).permutation(5000).tolist()]
    content = lines(tmp_path / "whole", rows).read_bytes()
    for name, packed in (("a.jsonl.gz", gzip.compress(content)), ("b.jsonl.zst", zstandard.compress(content))):
        (tmp_path / name).write_bytes(packed[: len(packed) // 2])
        source = sources.FileSource({"train": f"{tmp_path}/{name}"}, ["text"])
        read_texts = texts(source)
        assert read_texts == [row["text"] for row in rows[: len(read_texts)]]
        assert source.dropped["train", f"{tmp_path}/{name}"]["reading.damaged_file"] == 1


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("*.tsv", "'.*tsv' matches no file; .* holds a.jsonl, b.dat"),
        ("absent/*.jsonl", "matches no file; the folder .*absent does not exist"),
        ("", "it is a folder; give a glob"),
        ("b.dat", "no reader for suffix '.dat'"),
    ],
)
def test_patterns_without_readable_files_are_refused(sources, tmp_path, pattern, message):
    lines(tmp_path / "a.jsonl", [GOOD])
    (tmp_path / "b.dat").touch()
    with pytest.raises(ValueError, match=message):
        read(sources.FileSource({"train": str(tmp_path / pattern)}))


def test_an_absent_field_is_refused_after_the_first_records(sources, tmp_path):
    lines(tmp_path / "a.jsonl", [GOOD] * 20_000)
    with pytest.raises(
        ValueError, match="'targets': 'txet'.*none of the first 10,000 .*no field 'txet'.*found: text, n"
    ):
        sources.FileSource({"train": f"{tmp_path}/*"}, {"targets": "txet"}).get_dataset("train")


def test_values_keep_their_kinds(sources, tmp_path):
    record = {
        "text": "t", "flag": True, "count": 3, "share": 1, "words": ["a", "é"], "counts": [1, 2], "shares": [1, 2.5],
        "none": [], "nested": {"en": "hello", "parts": [{"a": 1}]}, "deep": [[1], [2]],
    }  # fmt: skip
    lines(tmp_path / "a.jsonl", [record, record | {"share": 0.5, "none": ["x"], "words": []}])
    first, second = read(sources.FileSource({"train": f"{tmp_path}/*"}, [*record, "nested.en"]))
    assert first["text"] == b"t" and first["nested.en"] == b"hello"
    assert first["flag"] is np.True_ and first["count"].dtype == np.int64 and first["share"].dtype == np.float64
    assert first["words"].tolist() == [b"a", "é".encode()] and first["counts"].tolist() == [1, 2]
    assert first["shares"].tolist() == [1.0, 2.5] and first["none"].tolist() == [] == second["words"].tolist()
    assert second["share"] == 0.5 and second["none"].tolist() == [b"x"]
    assert json.loads(first["nested"]) == record["nested"] and json.loads(first["deep"]) == record["deep"]


def test_a_field_that_fits_no_tensor_is_refused_by_name(sources):
    source = sources.GeneratorSource(lambda split: iter([{"text": "t", "when": object()}]), ["train"])
    with pytest.raises(ValueError, match="field 'when' is a object .*without it"):
        read(source)
    assert texts(sources.GeneratorSource(source.function, ["train"], ["text"])) == ["t"]


def test_columns_and_whole_files(sources, tmp_path):
    (tmp_path / "a.tsv").write_text("one\ttwo\nthree\tfour\n")
    named = sources.FileSource({"train": f"{tmp_path}/a.tsv"}, ["second"], columns=["first", "second"])
    assert texts(named, field="second") == ["two", "four"]
    whole = sources.FileSource({"train": f"{tmp_path}/a.tsv"}, ["text"], whole_files=True)
    assert texts(whole) == ["one\ttwo\nthree\tfour\n"]
    lines(tmp_path / "b.jsonl", [GOOD])
    with pytest.raises(ValueError, match="columns=.* are for .tsv and .csv"):
        read(sources.FileSource({"train": f"{tmp_path}/b.jsonl"}, columns=["first"]))


def test_inputs_depend_on_the_options(sources, tmp_path):
    one, other = (sources.FileSource({"train": f"{tmp_path}/*"}, fields) for fields in (["a"], ["b"]))
    assert one.inputs() == sources.FileSource({"train": f"{tmp_path}/*"}, ["a"]).inputs() != other.inputs()
    json.dumps(one.inputs()["options"])
    assert one.inputs()["data"] == [f"{tmp_path}/*"]


BUILDER = """
import tensorflow_datasets as tfds


class TinyNotes(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        pair = tfds.features.Translation(languages=("en", "fr"))
        return self.dataset_info_from_configs(features=tfds.features.FeaturesDict({"text": tfds.features.Text(), "both": pair}))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(30), "test": self._generate_examples(4)}

    def _generate_examples(self, count):
        for i in range(count):
            yield i, {"text": f"note {i}", "both": {"en": f"one {i}", "fr": f"un {i}"}}
"""


@pytest.fixture(scope="module")
def tfds_dir(tmp_path_factory, sources):
    """Returns a data dir with the prepared dataset tiny_notes, in three files."""
    import tensorflow_datasets as tfds

    folder = tmp_path_factory.mktemp("tfds")
    (folder / "code" / "tiny_notes").mkdir(parents=True)
    (folder / "code" / "tiny_notes" / "__init__.py").touch()
    (folder / "code" / "tiny_notes" / "tiny_notes.py").write_text(BUILDER)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder / "code"))
        from tiny_notes import tiny_notes

        config = tfds.download.DownloadConfig(num_shards=3)
        tiny_notes.TinyNotes(data_dir=folder / "data").download_and_prepare(download_config=config)
    return str(folder / "data")


def test_tfds_is_read_from_its_data_dir_in_the_order_of_its_files(sources, tfds_dir, monkeypatch):
    import seqio

    source = sources.TfdsSource("tiny_notes", {"targets": "text", "french": "both.fr"}, data_dir=tfds_dir)
    assert set(source.splits) == {"train", "test"} and source.num_input_examples("train") == 30
    whole = texts(source, field="targets")
    assert Counter(whole) == Counter(f"note {i}" for i in range(30)) and whole == texts(source, field="targets")
    shards = source.list_shards("train")
    parts = [texts(source, field="targets", shard_info=seqio.ShardInfo(i, 3)) for i in range(3)]
    assert len(shards) == 3 and list(itertools.chain(*parts)) == whole
    assert all(x["french"] == x["targets"].replace(b"note", b"un") for x in read(source))
    monkeypatch.setenv("TFDS_DATA_DIR", tfds_dir)
    slices = sources.TfdsSource("tiny_notes:1.0.0", splits={"train": "train[:4]", "validation": "train[4:]"})
    assert len(read(slices)) == 4 and Counter(texts(slices) + texts(slices, "validation")) == Counter(whole)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tfds_name": "tiny_absent"}, "tfds_name='tiny_absent' is not prepared in data_dir=.*holds .*tiny_notes"),
        ({"tfds_name": "mnist"}, "'mnist' is not prepared.*tfds build mnist"),
        ({"data_dir": "/nowhere"}, "data_dir=/nowhere \\(there is no such folder"),
        ({"fields": {"targets": "txet"}}, "'txet'}: tiny_notes has the fields both, text"),
        ({"splits": {"train": "trian"}}, "tiny_notes has the splits train, test|test, train"),
        ({"splits": ["test"]}, "split='train' is not a split of this source; it has test"),
    ],
)
def test_tfds_errors_name_the_remedy(sources, tfds_dir, options, message):
    with pytest.raises(ValueError, match=message):
        read(sources.TfdsSource(**{"tfds_name": "tiny_notes", "data_dir": tfds_dir} | options))


def save_dataset(folder: Path, rows: list[dict], split: str | None = "train", files: int = 2, **state) -> None:
    """Writes the files of Dataset.save_to_disk that the source reads."""
    folder.mkdir(parents=True)
    names = [f"data-{i:05}-of-{files:05}.arrow" for i in range(files)]
    for i, name in enumerate(names):
        table = pyarrow.Table.from_pylist(rows[i * len(rows) // files : (i + 1) * len(rows) // files])
        with pyarrow.OSFile(str(folder / name), "wb") as f, pyarrow.ipc.new_stream(f, table.schema) as stream:
            stream.write_table(table, max_chunksize=3)
    content = {"_data_files": [{"filename": name} for name in names], "_split": split, "_indices_data_files": None}
    (folder / "state.json").write_text(json.dumps(content | state))
    (folder / "dataset_info.json").write_text("{}")


ROWS = [{"text": f"row {i}", "label": i % 2, "words": ["a"] * (i % 3), "both": {"en": f"e{i}"}} for i in range(10)]


def test_saved_datasets_are_read_without_the_package(sources, tmp_path):
    for split in ("train", "validation"):
        save_dataset(tmp_path / "dict" / split, ROWS, split)
    (tmp_path / "dict" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    save_dataset(tmp_path / "one", ROWS, None, 1)
    for folder, splits in (("dict", ("train", "validation")), ("one", ("train",))):
        source = sources.ArrowSource(tmp_path / folder, ["text", "label", "words", "both.en"])
        assert tuple(source.splits) == splits
        for split in splits:
            examples = read(source, split)
            assert [x["text"].decode() for x in examples] == [row["text"] for row in ROWS]
            assert [x["label"] for x in examples] == [row["label"] for row in ROWS]
            assert [len(x["words"]) for x in examples] == [len(row["words"]) for row in ROWS]
            assert examples[3]["both.en"] == b"e3"


def test_incomplete_and_unsupported_saved_datasets_are_refused(sources, tmp_path):
    save_dataset(tmp_path / "shuffled", ROWS, _indices_data_files=[{"filename": "indices.arrow"}])
    with pytest.raises(ValueError, match="shuffled has an indices mapping.*flatten_indices"):
        sources.ArrowSource(tmp_path / "shuffled")
    save_dataset(tmp_path / "partial", ROWS)
    (tmp_path / "partial" / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(ValueError, match="names missing files: data-00001-of-00002.arrow"):
        sources.ArrowSource(tmp_path / "partial")
    with pytest.raises(ValueError, match="was not written by save_to_disk.*partial, shuffled"):
        sources.ArrowSource(tmp_path)


@pytest.mark.parametrize("cut", [8, 200])  # between two batches, and within one
def test_a_truncated_arrow_file_is_counted(sources, tmp_path, cut):
    save_dataset(tmp_path / "cut", ROWS, files=1)
    file = tmp_path / "cut" / "data-00000-of-00001.arrow"
    file.write_bytes(file.read_bytes()[:-cut])
    source = sources.ArrowSource(tmp_path / "cut", ["text"])
    read_texts = texts(source)
    assert read_texts and read_texts == [row["text"] for row in ROWS[: len(read_texts)]]
    assert source.dropped["train", str(file)] == {"reading.damaged_file": 1}


def test_saved_datasets_equal_those_of_the_package(sources, tmp_path):
    datasets = pytest.importorskip("datasets")
    dataset_dict = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:3])}
    )
    dataset_dict.save_to_disk(tmp_path / "a", num_shards={"train": 3, "test": 1})
    source = sources.ArrowSource(tmp_path / "a", ["text"])
    for split, dataset in datasets.load_from_disk(tmp_path / "a").items():
        assert texts(source, split) == dataset["text"][:]


def test_splits_are_found_by_the_names_of_files(sources, tmp_path):
    names = ("data/train-00000-of-00002.parquet", "data/train-00001-of-00002.parquet", "data/dev.jsonl.gz",
             "test/0000.parquet", "README.md")  # fmt: skip
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    splits = sources.find_splits_by_name(tmp_path)
    assert {split: [str(Path(p).relative_to(tmp_path)) for p in paths] for split, paths in splits.items()} == {
        "train": list(names[:2]), "validation": [names[2]], "test": [names[3]]
    }  # fmt: skip
    with pytest.raises(ValueError, match="holds no file with a split in its name"):
        sources.find_splits_by_name(tmp_path / "test" / "..." / "absent")
