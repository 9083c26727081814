"""A run over files: equal bytes for any number of processes and after any kill, and every document counted once."""

import functools
import gzip
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t5x_like.cleaning import reading, run, shards, work_files
from t5x_like.cleaning.contamination import Decontaminate
from t5x_like.cleaning.dedup import ExactDedup, LineDedup
from t5x_like.cleaning.duplicate_spans import SpanDedup
from t5x_like.cleaning.gopher import GopherQuality
from t5x_like.cleaning.minhash import NearDedup
from t5x_like.cleaning.pii import RedactPII
from t5x_like.cleaning.pipeline import Pipeline
from t5x_like.cleaning.report import Report
from t5x_like.cleaning.steps import Dropped, StatefulStep
from tests.cleaning.planted import prose

ROOT = Path(__file__).parents[2]
ITEM = " ".join(f"planted{n}" for n in range(15))
STEPS = (
    RedactPII(),
    GopherQuality(),
    ExactDedup(),
    NearDedup(),
    LineDedup(min_words_left=20),
    SpanDedup(),
    Decontaminate({"test item": ITEM}),
)
PIPELINE = Pipeline(STEPS)


def texts(first: int, count: int) -> list[str]:
    """Prose, some of it copied exactly, nearly, in a line or in three sentences, or with planted data or a test item."""
    menu = "Home and the products of our shop, with all that you have to know."
    made = []
    for n in range(first, first + count):
        same = prose(n // 20, 12)
        span = " ".join(prose(7, 4).split("\n"))
        made.append(
            {
                0: same,
                3: f"{same}\nand then some more.",
                5: f"{prose(n)}\n{menu}",
                7: f"{prose(n)} Write to jane{n}@example.org or call +44 20 7946 0958.",
                9: "too short",
                11: f"{prose(n)}\n{ITEM}",
                13: f"{prose(n)}\nNew one. {span}",
            }.get(n % 20, prose(n))
        )
    return made


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> tuple[Path, ...]:
    """Files of several formats: complete, empty, truncated, and with lines that are not documents."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "in").mkdir()
    for n, name in enumerate(("a.jsonl", "b.jsonl", "in/c.jsonl.gz", "in/a.txt")):
        lines = [json.dumps({"text": text, "url": f"u{n}"}) for text in texts(100 * n, 60)]
        if name.endswith(".txt"):
            lines = [text.replace("\n", " ") for text in texts(100 * n, 60)]
        content = "\n".join(lines).encode() + b"\n{not json\n\xff\xfe\n"
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    (folder / "empty.txt").write_text("")
    (folder / "in" / "cut.txt.gz").write_bytes(gzip.compress(b"some words\n" * 1000)[:-8])
    return tuple(reading.find_files([f"{folder}/**/*"]))


def job(inputs, out, pipeline=PIPELINE, suffix=".jsonl") -> run.Job:
    return run.Job(pipeline, tuple(inputs), Path(out), suffix)


def files(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def done(inputs, tmp_path_factory) -> Path:
    """A run by one process."""
    out = tmp_path_factory.mktemp("done") / "out"
    run.run(job(inputs, out))
    return out


def test_shards_equal_the_pipeline_in_process(inputs, done):
    report = Report()
    documents = [document for path in inputs for document in reading.read(path)]
    kept = list(PIPELINE(iter(documents), report))
    names = shards.name_shards(inputs)
    assert b"".join((done / f"{name}.jsonl").read_bytes() for name in names) == b"".join(
        map(shards.format_json_line, kept)
    )
    found = json.loads((done / "report.json").read_text())
    assert found.pop("empty_files") == [str(inputs[2])] and inputs[2].name == "empty.txt"
    assert found.pop("rejects_file") == "rejects.jsonl"
    assert found == {name: value for name, value in report.to_dict().items() if name in found}
    assert set(report.dropped) >= {f"{rule}" for rule in ("exact_dedup.copy", "near_dedup.copy", "contamination.ngram")}
    assert report.edits["line_dedup.line"] and report.edits["span_dedup.sentence"] and report.edits["pii.mail"]


def test_every_document_is_counted_once(inputs, done):
    found = json.loads((done / "report.json").read_text())
    assert found["read"] == sum(1 for path in inputs for _ in reading.read(path))
    assert found["read"] == found["kept"] + sum(found["dropped"].values())
    shard_names = {f"{name}.jsonl" for name in shards.name_shards(inputs)}
    assert found["kept"] == sum(content.count(b"\n") for name, content in files(done).items() if name in shard_names)
    assert found["dropped"]["reading.damaged_file"] == 1 and found["dropped"]["reading.invalid_utf8"] == 4


def test_two_processes_give_the_same_bytes(inputs, done, tmp_path):
    seen = []
    run.run(job(inputs, tmp_path / "out"), workers=2, progress=lambda *call: seen.append(call))
    assert files(tmp_path / "out") == files(done)
    assert [(at, of) for at, of, _ in seen] == [(n, 30) for n in range(1, 31)]


class Killed(BaseException):
    pass


@pytest.mark.parametrize("after", [1, 7, 13, 22, 29])
def test_a_stopped_run_resumes(after, inputs, done, tmp_path):
    """Stopped after some tasks, the rerun does no task twice and ends with the same bytes."""

    def stop(at, of, what):
        if at == after:
            raise Killed

    with pytest.raises(Killed):
        run.run(job(inputs, tmp_path / "out"), progress=stop)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / ".work").glob("report*/**/*.jsonl")}
    assert len(times) == after

    def untouched(at, of, what):
        assert times == {path: path.stat().st_mtime_ns for path in times}

    run.run(job(inputs, tmp_path / "out"), progress=untouched)
    assert files(tmp_path / "out") == files(done)


SLOW = """
import sys, time
from pathlib import Path
from t5x_like.cleaning import run
from tests.cleaning.test_run import job
def slowly(at, of, what):
    print(at, flush=True)
    time.sleep(0.2)
if __name__ == "__main__":
    run.run(job(map(Path, sys.argv[2:]), sys.argv[1]), workers=2, progress=slowly)
"""


def test_a_killed_run_resumes(inputs, done, tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    command = [sys.executable, str(tmp_path / "slow.py"), str(tmp_path / "out"), *map(str, inputs)]
    process = subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, start_new_session=True
    )
    for _ in range(9):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.wait()
    deadline = time.monotonic() + 10
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not members(process.pid)  # the workers ended too
    assert not (tmp_path / "out" / "report.json").exists()
    (tmp_path / "out" / ".a.jsonl.x.partial").write_text("of a worker that was writing a shard")
    run.run(job(inputs, tmp_path / "out"))
    assert files(tmp_path / "out") == files(done)


def members(group: int) -> list[int]:
    """Running processes of a group."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, member = path.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(member) == group and state != "Z":
            found.append(int(path.parent.name))
    return found


def test_a_finished_run_is_not_repeated(inputs, done):
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    report = run.run(job(inputs, done))
    assert before == {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    assert report.summary() in run.run(job(inputs, done)).summary() and report.kept > 50


def test_another_run_is_refused(inputs, done, tmp_path):
    changed = Pipeline((*STEPS[:-1], Decontaminate({"test item": ITEM}, n=12)))
    with pytest.raises(ValueError, match="holds a run with other pipeline; give another folder"):
        run.run(job(inputs, done, changed))
    with pytest.raises(ValueError, match="a run with other inputs"):
        run.run(job(inputs[1:], done))
    (tmp_path / "mine").write_text("")
    with pytest.raises(ValueError, match="is not empty and holds no cleaning run"):
        run.run(job(inputs, tmp_path))
    with pytest.raises(ValueError, match="suffix='.txt' is not known; give one of .jsonl, .jsonl.gz, .jsonl.zst"):
        run.run(job(inputs, tmp_path / "new", suffix=".txt"))
    with pytest.raises(ValueError, match="workers=0"):
        run.run(job(inputs, tmp_path / "new"), workers=0)
    with pytest.raises(ValueError, match="cannot be sent to other processes"):
        run.run(job(inputs, tmp_path / "new", Pipeline((lambda document: document,))), workers=2)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def fails(document):
    raise OSError(28, "No space left on device")


def dies(document):
    os._exit(9)


def test_errors_are_raised_and_leave_no_partial_file(inputs, tmp_path):
    for workers in (1, 2):
        with pytest.raises(OSError, match="no space left while writing .*run the same command to resume"):
            run.run(job(inputs, tmp_path / str(workers), Pipeline((fails,))), workers)
        assert not [name for name in files(tmp_path / str(workers)) if "partial" in name or "a.jsonl" in name]
    with pytest.raises(RuntimeError, match="a worker process was killed"):
        run.run(job(inputs, tmp_path / "dead", Pipeline((dies,))), workers=2)


def odd(document):
    """Fails for some documents."""
    return {} if "2" in document["id"] else document


def test_records_that_fail_are_counted_and_listed_by_file_and_number(tmp_path):
    path = tmp_path / "a.jsonl"
    deep = "[" * 600 + "]" * 600
    records = [json.dumps({"id": str(n), "text": prose(n)}) for n in range(4)]
    bad = [f'{{"text": {deep}}}', "{", f'{{"n": 1{"0" * 5000}}}', '{"text": 5}', '{"text": "half \\ud800"}']
    path.write_text("\n".join([records[0], bad[0], *records[1:3], *bad[1:], records[3]]))
    report = run.run(job([path], tmp_path / "out", Pipeline((ExactDedup(), odd, GopherQuality()))), workers=2)
    assert report.kept == 3 and report.dropped == {
        "reading.invalid_json": 3,
        "readable.no_text": 1,
        "readable.invalid_utf8": 1,
        "error.GopherQuality": 1,
    }
    rejects = [json.loads(line) for line in (tmp_path / "out" / report.rejects_file).read_bytes().splitlines()]
    assert [(each["file"], each["record"]) for each in rejects] == [
        (str(path), number) for number in (2, 5, 6, 7, 8, 4)
    ]
    assert rejects[-1]["detail"] == "KeyError: 'text'" and "rejects.jsonl" in report.summary()
    assert run.run(job([path], tmp_path / "out", Pipeline((ExactDedup(), odd, GopherQuality())))) == report


def always(document):
    raise KeyError("no such field")


def test_what_concerns_every_record_stops_the_run(inputs, tmp_path):
    with pytest.raises(ValueError, match=r"the first 1000 records fails: error.always: KeyError: 'no such field'"):
        (tmp_path / "many.txt").write_text("text\n" * 1001)
        run.run(job([tmp_path / "many.txt"], tmp_path / "one", Pipeline((always,))))
    read = functools.partial(reading.read, field="body")
    (tmp_path / "few.jsonl").write_text('{"text": "a"}\n' * 9)
    with pytest.raises(ValueError, match=r"each of the 9 records fails \(9 reading.missing_field\); .*no field 'body'"):
        run.run(run.Job(Pipeline(()), (tmp_path / "few.jsonl",), tmp_path / "two", ".jsonl", read))


def test_work_files_are_json(inputs, tmp_path):
    """A work folder may come from someone else, and a pickle would run its code."""

    def stop(at, of, what):
        if at == len(inputs):
            raise Killed

    with pytest.raises(Killed):
        run.run(job(inputs, tmp_path / "out"), progress=stop)
    paths = [path for path in (tmp_path / "out" / ".work").rglob("*") if path.is_file()]
    assert {path.parts[-2] for path in paths} >= {"aside0", "sketches0", "decisions0", "report0"}
    assert any([*work_files.read_values(path)] for path in paths)
    paths[0].write_bytes(b"{}\n\x80\x04K*.")
    with pytest.raises(ValueError, match="line 2 is damaged"):
        list(work_files.read_values(paths[0]))


def test_sketches_and_decisions_are_encoded_without_loss(tmp_path):
    document = {"text": prose(1), "id": "x"}
    sketches = [step.sketch(document) for step in STEPS if isinstance(step, StatefulStep)]
    values = [*sketches, None, Dropped("a.b", "c"), [1, 2.5], {"a": (b"\xff", {1: "x"})}, "half \ud83d"]
    with work_files.open_values(tmp_path / "values") as write:
        for value in values:
            write(work_files.encode(value))
    found = map(work_files.decode, work_files.read_values(tmp_path / "values"))
    assert pickle.dumps([*found]) == pickle.dumps(values)
    with pytest.raises(TypeError, match="a step's sketch or decision holds a set"):
        work_files.encode([{1}])


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst"])
def test_compressed_shards_are_reproducible_and_readable(suffix, inputs, done, tmp_path):
    if suffix == ".jsonl.zst":
        pytest.importorskip("zstandard")
    pipeline = Pipeline(STEPS[:3])
    for name in ("one", "two"):
        run.run(job(inputs[:2], tmp_path / name, pipeline, suffix))
    assert files(tmp_path / "one") == files(tmp_path / "two")
    found = [document for path in sorted((tmp_path / "one").glob(f"*{suffix}")) for document in reading.read(path)]
    documents = (document for path in inputs[:2] for document in reading.read(path))
    assert found == list(pipeline(documents, Report()))


def test_unusual_values_are_written():
    assert json.loads(shards.format_json_line({"text": "half \ud83d", "when": b"\xff", "n": 1.5}))["n"] == 1.5


def test_shard_names_are_unique():
    paths = [Path(name) for name in ("/d/a.jsonl.gz", "/d/a.txt", "/d/in/a.txt", "/d/b")]
    assert shards.name_shards(paths) == ["a.jsonl.gz", "a.txt", "in/a", "b"]
    assert shards.name_shards([Path("/d/a.parquet")]) == ["a"]


def test_read_may_be_any_function_of_a_path(inputs, tmp_path):
    read = functools.partial(reading.read, field="url")
    found = run.run(run.Job(Pipeline(()), inputs[:1], tmp_path / "out", ".jsonl", read))
    assert found.kept == 60 and found.dropped == {"reading.invalid_json": 1, "reading.invalid_utf8": 1}
