"""The hint that a machine is shared: from real processes that take real cores."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from dipole_sb3.cli import shared_machine
from dipole_sb3.common.child_processes import available_cores

CORES = available_cores()
needs_proc = pytest.mark.skipif(not Path("/proc/stat").exists(), reason="the system does not tell its load")


@contextmanager
def spinning(*before: str) -> Iterator[None]:
    """Every core has processes that never wait."""
    command = [*before, sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in range(2 * CORES)]
    try:
        time.sleep(0.3)
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@needs_proc
def test_counts_cores_that_others_use_unless_they_give_way() -> None:
    with spinning():
        busy = shared_machine.busy_cores(1.0)
        assert 0.75 * CORES < busy <= CORES
    with spinning("nice", "-n", "19"):
        # Other tests may run beside this one, at ordinary priority: they are counted.
        assert shared_machine.busy_cores(1.0) < busy


@pytest.mark.parametrize(
    ("busy", "cores", "expected"),
    [
        (0.1, 2, None),
        (0.5, 2, None),
        (0.9, 2, "1 of 2 cores is busy with other processes"),
        (2.0, 2, "2 of 2 cores are busy with other processes"),
        (5.0, 8, None),
        (7.0, 8, "7 of 8 cores are busy with other processes"),
    ],
)
@pytest.mark.usefixtures("two_threads")
def test_hint(monkeypatch: pytest.MonkeyPatch, busy: float, cores: int, expected: str | None) -> None:
    monkeypatch.setattr(shared_machine, "busy_cores", lambda: busy)
    monkeypatch.setattr(shared_machine, "available_cores", lambda: cores)
    advice = ": updates on 2 threads are slow then, try OMP_NUM_THREADS=1"
    assert shared_machine.hint() == (None if expected is None else expected + advice)
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert shared_machine.hint() is None
