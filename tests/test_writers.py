"""Writers: no duplicate metrics after a crash, files that are written once per run, the loss plot."""

from t5x_like import writers
from t5x_like.data.tokenizers import loading
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary
from t5x_like.run_dir import RunDir


def losses(path):
    return [(record["step"], record["loss"]) for record in writers.read_metrics(path / "metrics.jsonl")]


def test_metrics_after_the_checkpoint_are_superseded_and_nothing_is_rewritten(tmp_path):
    with writers.RunWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": 1.0 / step})
        assert writer.last == {"loss": 0.2}
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # interrupted while writing
    before = (tmp_path / "metrics.jsonl").read_text().removesuffix('{"step": 6, "lo')
    with writers.RunWriter(tmp_path, first=3) as writer:
        writer.write(4, {"loss": 0.5})
        assert losses(tmp_path) == [(1, 1.0), (2, 1 / 2), (3, 1 / 3), (4, 0.5)]
        writer.drop_after(2)
        writer.write(3, {"loss": 0.75})
    assert losses(tmp_path) == [(1, 1.0), (2, 1 / 2), (3, 0.75)]
    assert (tmp_path / "metrics.jsonl").read_text().startswith(before)
    with writers.RunWriter(tmp_path, first=3):
        pass
    with open(tmp_path / "metrics.jsonl") as file:
        assert len(list(file)) == 5 + 2 + 2  # each resumption that supersedes records has a line


def test_configuration_and_vocabulary_are_written_once(tmp_path):
    vocabularies = ByteVocabulary(), ByteVocabulary(extra_ids=7)
    for text, first in (("x", None), ("a", None), ("a", 3), ("lost", 9), ("b", 5), ("b", 20), ("a", 100)):
        writers.write_run_files(tmp_path, text, "params", vocabularies[first is not None], first)
    texts = {path.name: path.read_text() for path in tmp_path.glob("*.gin")}
    assert texts == {"config.gin": "a", "config.step_5.gin": "b", "config.step_100.gin": "a"}
    assert RunDir(tmp_path).newest_config.name == "config.step_100.gin"
    assert loading.load(tmp_path / "vocabulary") == vocabularies[0]


def test_a_new_run_replaces_the_vocabulary_of_an_attempt_without_checkpoint(tmp_path):
    (tmp_path / "vocabulary").mkdir()
    (tmp_path / "config.step_3.gin").write_text("old")
    (tmp_path / "vocabulary" / "half").write_text("")
    writers.write_run_files(tmp_path, "a", "params", ByteVocabulary(), None)
    assert [path.name for path in (tmp_path / "vocabulary").iterdir()] == ["vocabulary.json"]
    assert RunDir(tmp_path).newest_config.read_text() == "a"


def test_the_plot_is_an_image(tmp_path):
    with writers.RunWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": 1.0 / step, "eval/loss": 2.0 / step})
    assert writers.plot_losses(tmp_path).read_bytes().startswith(b"\x89PNG")
