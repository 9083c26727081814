"""1, 2 and 4 hosts, each in its own process, make the same batches of every kind of rows, from any first step."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data import hosts
from tests.data.rows import kinds

ROOT = Path(__file__).parents[2]
BEGINS = (0, 1, 2, 5)


@pytest.fixture(scope="module")
def runs(tiny_root):
    """{number of hosts: the output of each}; all processes run in parallel."""
    started = {
        count: [
            subprocess.Popen(
                [sys.executable, "-m", "tests.data.hosts", *map(str, (tiny_root, count, host, *BEGINS))],
                cwd=ROOT, stdout=subprocess.PIPE, text=True,
            )
            for host in range(count)
        ]
        for count in (1, 2, 4)
    }  # fmt: skip
    printed = {count: [process.communicate()[0] for process in processes] for count, processes in started.items()}
    return {count: [json.loads(text) for text in texts] for count, texts in printed.items()}


@pytest.mark.parametrize("kind", kinds.KINDS)
def test_hosts_in_separate_processes_resume_bitwise_from_any_batch(runs, kind):
    whole = {step: runs[1][0][kind][f"0 {step}"] for step in range(hosts.STEPS)}
    assert len({row for rows in whole.values() for row in rows}) > 2 * hosts.BATCH
    for outputs in runs.values():
        for begin in BEGINS:
            for step in range(begin, hosts.STEPS):
                together = [row for host in outputs for row in host[kind][f"{begin} {step}"]]
                assert together == whole[step], (len(outputs), begin, step)
