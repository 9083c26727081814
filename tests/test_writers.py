"""Writers: no duplicate metrics after a crash, backups of configurations, the loss plot."""

import json

from t5x_like import writers


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


def test_a_changed_configuration_does_not_overwrite_the_old_one(tmp_path):
    for text in ("a", "a", "b"):
        writers.write_run_files(tmp_path, text, "params")
    assert (tmp_path / "config.gin").read_text() == "b"
    assert (tmp_path / "config.1.gin").read_text() == "a"
    assert not (tmp_path / "config.2.gin").exists()


def test_the_plot_is_an_image(tmp_path):
    with writers.RunWriter(tmp_path) as writer:
        for step in range(1, 6):
            writer.write(step, {"loss": 1.0 / step, "eval/loss": 2.0 / step})
    assert writers.plot_losses(tmp_path).read_bytes().startswith(b"\x89PNG")
