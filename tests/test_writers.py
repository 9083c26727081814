"""Writers: no duplicate metrics after a crash, files that are written once per run, the loss plot."""

import json

from t5x_like import writers
from t5x_like.data.tokenizers import loading
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary


def steps(path):
    return [json.loads(line)["step"] for line in (path / "metrics.jsonl").read_text().splitlines()]


def test_metrics_after_the_checkpoint_are_dropped(tmp_path):
    with writers.RunWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": 1.0 / step})
        assert writer.last == {"loss": 0.2}
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "lo')  # interrupted while writing
    with writers.RunWriter(tmp_path, first=3) as writer:
        writer.write(4, {"loss": 0.5})
    assert steps(tmp_path) == [1, 2, 3, 4]


def test_configuration_and_vocabulary_are_written_once(tmp_path):
    vocabularies = ByteVocabulary(), ByteVocabulary(extra_ids=7)
    for text, is_new in (("x", True), ("a", True), ("a", False), ("b", False), ("b", False), ("a", False)):
        writers.write_run_files(tmp_path, text, "params", vocabularies[not is_new], is_new)
    texts = {path.name: path.read_text() for path in tmp_path.glob("*.gin")}
    assert texts == {"config.gin": "a", "config.1.gin": "b", "config.2.gin": "a"}
    assert loading.load(tmp_path / "vocabulary") == vocabularies[0]


def test_a_new_run_replaces_the_vocabulary_of_an_attempt_without_checkpoint(tmp_path):
    (tmp_path / "vocabulary").mkdir()
    (tmp_path / "vocabulary" / "half").write_text("")
    writers.write_run_files(tmp_path, "a", "params", ByteVocabulary(), True)
    assert [path.name for path in (tmp_path / "vocabulary").iterdir()] == ["vocabulary.json"]


def test_the_plot_is_an_image(tmp_path):
    with writers.RunWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": 1.0 / step, "eval/loss": 2.0 / step})
    assert writers.plot_losses(tmp_path).read_bytes().startswith(b"\x89PNG")
