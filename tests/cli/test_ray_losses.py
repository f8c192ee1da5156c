"""``engine=ray``: whoever is killed, a run ends as one that never was."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import ray
import torch
from commands import UNTESTED, Command, parameters
from ray.cluster_utils import Cluster

from dipole_sb3.cli import main
from dipole_sb3.cli.claim import FolderClaimedError, claimed

# Eager, because `auto` may choose another way of updating for a run of another length, which rounds differently.
# So long that it has not ended when the first files come from a machine without the folder, after two seconds.
LONG = ["task=reacher", "algo.acceleration=eager", "seed=3", *UNTESTED]
LONG += ["offline_steps=1500", "checkpoint_freq=20", "log_interval=1"]

ELSEWHERE = "127.0.0.2"
"""Of this machine, too, but the command believes to be on another."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster without a machine for tasks, which notices within two seconds, and not fifteen, that one is gone."""
    environment = pytest.MonkeyPatch()
    environment.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
    noticing = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    head = {"num_cpus": 0, "object_store_memory": 100 * 2**20, "include_dashboard": False, "_system_config": noticing}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()
    environment.undo()


@pytest.fixture
def engine(cluster: Cluster) -> Iterator[list[str]]:
    """Before it, the cluster has noticed that the last test's machines are gone."""
    deadline = time.monotonic() + 60
    while sum(node["Alive"] for node in cluster.global_state.node_table()) > 1 and time.monotonic() < deadline:
        time.sleep(0.1)
    yield ["engine=ray", "slots=1", f"address={cluster.address}"]
    if ray.is_initialized():
        ray.shutdown()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run in this process, in which nobody is killed."""
    folder = tmp_path_factory.mktemp("unkilled") / "whole"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert main(["train", *LONG, f"run_dir={folder}"]) == 0
    finally:
        torch.set_num_threads(threads)
    return folder


def assert_equal(one: Path, other: Path) -> None:
    found, expected = parameters(one / "model.zip"), parameters(other / "model.zip")
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def when(there: Callable[[], bool], then: Callable[[], None]) -> threading.Thread:
    """Does something once, as soon as something is there."""

    def wait() -> None:
        deadline = time.monotonic() + 120
        while not there() and time.monotonic() < deadline:
            time.sleep(0.01)
        then()

    thread = threading.Thread(target=wait)
    thread.start()
    return thread


def newest(folder: Path) -> int:
    """Timestep of the newest checkpoint of a run; 0: there are not yet two, so that an older one may be missed."""
    steps = sorted(int(path.stem.split("_")[1]) for path in folder.glob("checkpoints/model_*_steps.zip"))
    return steps[-1] if len(steps) > 1 else 0


def is_free(folder: Path) -> bool:
    """Whether no process writes the folder."""
    with contextlib.suppress(FolderClaimedError), claimed(folder, ""):
        return True
    return False


def machine(cluster: Cluster, *before: str) -> subprocess.Popen[bytes]:
    """One more machine of one core, which ends with the process.

    :param before: what starts it, e.g. with another view of the files.
    """
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={cluster.address}", "--num-cpus=1"]
    start += [f"--node-ip-address={ELSEWHERE}", "--object-store-memory=100000000", "--block"]
    return subprocess.Popen([*before, *start], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def processes_of(machine: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [psutil.Process(machine.pid), *psutil.Process(machine.pid).children(recursive=True)]


def cut_off(machine: subprocess.Popen[bytes]) -> None:
    """Ends all of its processes at once."""
    for process in processes_of(machine):
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    machine.wait()


def test_a_command_that_is_ended_can_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: Path) -> None:
    """With a cluster of its own, again and again: after one, Ray does not come back to another in the same process."""
    monkeypatch.chdir(tmp_path)
    folder, engine = tmp_path / "mine", ["engine=ray", "slots=1"]
    command = [sys.executable, "-m", "dipole_sb3.cli", "train"]
    options = [*LONG, *engine, "run_dir=mine"]
    for end, status in ((signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGKILL, -signal.SIGKILL)):
        before = newest(folder)
        driver = subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        when(lambda: newest(folder) > before, lambda: driver.send_signal(end)).join()  # noqa: B023
        out, _ = driver.communicate(timeout=120)
        assert driver.returncode == status, out
        if end != signal.SIGKILL:
            assert "stopped, and saved" in out
            assert "Go on with\n  dipole train engine=ray slots=1 resume=mine" in out
        options = [*engine, "resume=mine"]
    when(lambda: is_free(folder), lambda: None).join()  # the task notices only now that its command was killed
    ended = subprocess.run([*command, *options], capture_output=True, text=True, check=False, timeout=300)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert_equal(folder, whole)


IN_ITS_OWN_FILES = ["unshare", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
OWN_FILES = (
    shutil.which("unshare") is not None and subprocess.run([*IN_ITS_OWN_FILES, "true"], check=False).returncode == 0
)
"""Whether a process can have a file system of its own here."""


def machine_without(folder: Path, cluster: Cluster) -> subprocess.Popen[bytes]:
    """A machine that has another, empty folder there."""
    hidden = ["sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder)]
    return machine(cluster, *IN_ITS_OWN_FILES, *hidden)


def test_a_run_goes_on_on_whatever_machine_is_left(
    dipole: Command, cluster: Cluster, engine: list[str], whole: Path, tmp_path: Path
) -> None:
    """First its process is killed, then its machine is gone, then the next one, too.

    The first and the last machine do not have the folder, so that what they make comes back, also the checkpoints with
    which it goes on; the one between them shares it, and writes it itself. Where no process can have a file system of
    its own, all share it.
    """
    folder, ended_at = Path("mine").absolute(), [0]
    machines = [machine_without(tmp_path, cluster) if OWN_FILES else machine(cluster)]

    def kill() -> None:
        (task,) = [process for process in processes_of(machines[0]) if "_perform_in" in " ".join(process.cmdline())]
        task.kill()
        ended_at.append(newest(folder))

    def replace() -> None:
        cut_off(machines[-1])
        machines.append(machine_without(tmp_path, cluster) if OWN_FILES and len(machines) == 2 else machine(cluster))
        ended_at.append(newest(folder))

    def after(losses: int) -> Callable[[], bool]:
        return lambda: len(ended_at) > losses and newest(folder) > ended_at[-1]

    threads = [when(after(losses), then) for losses, then in enumerate([kill, replace, replace])]
    try:
        status, out, err = dipole("train", *LONG, *engine, "run_dir=mine")
    finally:
        for thread in threads:
            thread.join()
        cut_off(machines[-1])
    assert (status, err) == (0, "")
    for loss in (1, 2, 3):
        assert f"it goes on, {loss} of 3" in out
    assert len(list(folder.glob("checkpoints/*.zip"))) == 2  # older ones are gone here, too
    assert_equal(folder, whole)
    rows = [(each / "progress.csv").read_text().count("\n") for each in (folder, whole)]
    assert rows[0] == rows[1]


@pytest.mark.skipif(not OWN_FILES, reason="no file system of one's own here")
def test_what_another_process_writes_here_is_left_to_it(
    dipole: Command, cluster: Cluster, engine: list[str], tmp_path: Path
) -> None:
    first, folder, ended = machine_without(tmp_path, cluster), Path("mine").absolute(), threading.Event()

    def take() -> None:
        while not (folder / "config.yaml").exists():
            time.sleep(0.01)
        while not ended.is_set():
            with contextlib.suppress(FolderClaimedError), claimed(folder, ""):
                ended.wait()
            time.sleep(0.01)

    thread = threading.Thread(target=take)
    thread.start()
    try:
        status, _, err = dipole("train", *LONG, *engine, "offline_steps=100000", "run_dir=mine")
    finally:
        ended.set()
        thread.join()
        cut_off(first)
    assert status == 1
    assert f"process {os.getpid()} on" in err
    assert "1 of 1 tasks failed" in err
    assert not (folder / "checkpoints").exists()
