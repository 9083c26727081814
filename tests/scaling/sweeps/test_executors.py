"""Executors run every command, no more at a time than there are workers, and leave no process behind."""

import sys
import types

import pytest

from t5x_like.scaling.sweeps import executors
from t5x_like.scaling.sweeps.executors import Job


def jobs(folder, scripts):
    return [Job(f"job{i}", ["bash", "-c", text], folder / f"{i}.txt") for i, text in enumerate(scripts)]


def test_a_pool_runs_all_jobs_and_never_more_than_its_processes(tmp_path, monkeypatch):
    monkeypatch.setattr(executors, "POLL_SECONDS", 0.01)
    script = f"touch {tmp_path}/on$$; set -- {tmp_path}/on*; echo $#; echo cores $T5X_LIKE_CORES; sleep 0.1; rm {tmp_path}/on$$"
    executors.LocalPool(processes=2).run(jobs(tmp_path, [script] * 5), lambda: None)
    logs = [(tmp_path / f"{i}.txt").read_text().split() for i in range(5)]
    assert len(logs) == 5 and max(int(log[0]) for log in logs) <= 2
    assert all(log[2] for log in logs)


def test_the_cores_are_split_between_the_processes(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setattr(executors.os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    parts = [environment["T5X_LIKE_CORES"].split(",") for environment in executors.worker_environments(2, 9)]
    assert len(parts) == 2 and sorted(parts[0] + parts[1]) == ["0", "1", "2", "3"]
    assert executors.worker_environments(None, 1) == [{"T5X_LIKE_CORES": "0,1,2,3"}]


def test_every_gpu_has_one_process(monkeypatch):
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert executors.worker_environments(None, 9) == [{"CUDA_VISIBLE_DEVICES": "2"}, {"CUDA_VISIBLE_DEVICES": "5"}]
    assert executors.worker_environments(1, 9) == [{"CUDA_VISIBLE_DEVICES": "2"}]


def test_an_interrupted_pool_stops_its_processes(tmp_path):
    def interrupt():
        if (tmp_path / "0.txt").read_text():
            raise KeyboardInterrupt

    script = "trap 'echo saved; exit 0' TERM; echo started; while true; do sleep 0.05; done"
    with pytest.raises(KeyboardInterrupt):
        executors.LocalPool(processes=1).run(jobs(tmp_path, [script, "echo never"]), interrupt)
    assert (tmp_path / "0.txt").read_text().split() == ["started", "saved"]
    assert not (tmp_path / "1.txt").exists()


def test_commands_are_printed_as_a_shell_reads_them(tmp_path, capsys):
    executors.CommandList().run(jobs(tmp_path, ["echo 'a b'"]), lambda: None)
    assert capsys.readouterr().out == f"""bash -c 'echo '"'"'a b'"'"'' >> {tmp_path}/0.txt 2>&1\n"""
    assert not (tmp_path / "0.txt").exists()


def test_slurm_gets_a_job_for_every_trial(tmp_path, monkeypatch, capsys):
    submitted = []

    class AutoExecutor:
        def __init__(self, folder, cluster):
            assert cluster == "slurm"

        def update_parameters(self, **parameters):
            self.parameters = parameters

        def submit(self, command):
            submitted.append((self.parameters, command))
            return types.SimpleNamespace(job_id=len(submitted))

    helpers = types.SimpleNamespace(CommandFunction=lambda command: command)
    monkeypatch.setitem(sys.modules, "submitit", types.SimpleNamespace(AutoExecutor=AutoExecutor, helpers=helpers))
    executors.Slurm({"slurm_partition": "gpu"}).run(jobs(tmp_path, ["a", "b"]), lambda: None)
    for i, (_, command) in enumerate(submitted):
        assert command == ["bash", "-c", f"exec bash -c {'ab'[i]} >> {tmp_path}/{i}.txt 2>&1"]
    assert submitted[0][0] == {"name": "job0", "slurm_partition": "gpu"}
    assert "job1: SLURM job 2" in capsys.readouterr().out


@pytest.mark.parametrize("executor, package", [(executors.Slurm(), "submitit"), (executors.Ray(), "ray")])
def test_a_missing_package_is_named(monkeypatch, executor, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RuntimeError, match=f"pip install {package}"):
        executor.run([], lambda: None)
