"""``engine=ray``: the same runs from the processes of a real cluster, whoever of them is killed."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import ray
import torch
from commands import TINY, UNTESTED, Command, parameters
from hypothesis import given
from hypothesis import strategies as st
from ray.cluster_utils import Cluster

from dipole_sb3 import DIPOLE
from dipole_sb3.cli.claim import FolderClaimedError, claimed
from dipole_sb3.cli.engine import Engine, Task, Tell, split, taken_from
from dipole_sb3.cli.engine.cluster import connected, room_on
from dipole_sb3.cli.engine.parcels import Parcel, Receiver, Sender
from dipole_sb3.cli.engine.worker import Office, Order, Outcome, Place, perform

# Eager, because `auto` may choose another way of updating for a run of another length, which rounds differently.
RUN = ["task=reacher", "algo.acceleration=eager", "seed=3"]
LONG = [*RUN, *UNTESTED, "offline_steps=600", "checkpoint_freq=20", "log_interval=1"]


ELSEWHERE = "127.0.0.2"
"""Of this machine, too, but the command believes to be on another."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two machines of one core; the command runs on the first."""
    environment = pytest.MonkeyPatch()
    environment.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False},
    )
    made.add_node(num_cpus=1, object_store_memory=100 * 2**20)
    yield made
    made.shutdown()
    environment.undo()


@pytest.fixture
def engine(cluster: Cluster) -> Iterator[list[str]]:
    yield ["engine=ray", f"address={cluster.address}"]
    if ray.is_initialized():
        ray.shutdown()


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


def in_its_own_process(*arguments: str) -> tuple[int, str, str]:
    """The command with a cluster of its own: after one, Ray does not come back to another in the same process."""
    command = [sys.executable, "-m", "dipole_sb3.cli", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    return ended.returncode, ended.stdout, ended.stderr


def owner(folder: Path) -> int:
    return int(json.loads((folder / "claim.json").read_text())["pid"])


def assert_equal(one: Path, other: Path) -> None:
    found, expected = parameters(one), parameters(other)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def unkilled(dipole: Command, *options: str) -> Path:
    """The same run in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert dipole("train", *LONG, *options, "run_dir=whole")[0] == 0
    finally:
        torch.set_num_threads(threads)
    return Path("whole/model.zip")


def test_runs_of_a_cluster_are_those_of_one_process(dipole: Command, engine: list[str]) -> None:
    options = ["task=reacher", *TINY, "algo.acceleration=eager", "episodes=2", "omegas=[0,1]", "candidates=[1]"]
    sweep = ["-m", "seed=0,1,2", "algo.flow_steps=2,3"]
    status, out, err = dipole("train", *sweep, *options, *engine, "hydra.sweep.dir=spread")
    assert (status, err) == (0, "")
    assert "[2/2]" in out
    assert dipole("train", *sweep, *options, "hydra.sweep.dir=here")[0] == 0
    found, expected = (
        np.genfromtxt(f"{folder}/omega_sweep_over_runs.csv", delimiter=",", names=True) for folder in ("spread", "here")
    )
    assert found.dtype == expected.dtype
    for name in found.dtype.names:
        # In other company, and beside another number of threads, an update rounds differently.
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-6)
    assert len(list(Path("spread").glob("*/omega_sweep.csv"))) == 6
    assert not list(Path("spread").rglob(".mark*"))


def test_a_run_whose_process_is_killed_goes_on(dipole: Command, engine: list[str]) -> None:
    folder = Path("mine").absolute()
    thread = when(
        lambda: len(list(folder.glob("checkpoints/*.zip"))) > 1, lambda: os.kill(owner(folder), signal.SIGKILL)
    )
    status, out, err = dipole("train", *LONG, *engine, "run_dir=mine")
    thread.join()
    assert (status, err) == (0, "")
    assert "it goes on, 1 of 3" in out
    assert_equal(Path("mine/model.zip"), unkilled(dipole))


def machine(cluster: Cluster, *before: str) -> subprocess.Popen[bytes]:
    """One more machine of one core, which ends with the process.

    :param before: what starts it, e.g. with another view of the files.
    """
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", f"--address={cluster.address}", "--num-cpus=1"]
    start += [f"--node-ip-address={ELSEWHERE}", "--object-store-memory=100000000", "--block"]
    return subprocess.Popen([*before, *start], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def cut_off(machine: subprocess.Popen[bytes]) -> None:
    """Ends all of its processes at once."""
    processes = [psutil.Process(machine.pid), *psutil.Process(machine.pid).children(recursive=True)]
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    machine.wait()


@pytest.fixture
def bare_cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A cluster without a machine for tasks."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))
    head = {"num_cpus": 0, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=head)
    yield made
    made.shutdown()


def test_a_run_whose_machine_is_gone_goes_on_elsewhere(dipole: Command, bare_cluster: Cluster) -> None:
    first, others = machine(bare_cluster), list[subprocess.Popen[bytes]]()
    folder = Path("mine").absolute()

    def replace() -> None:
        cut_off(first)
        others.append(machine(bare_cluster))

    thread = when(lambda: len(list(folder.glob("checkpoints/*.zip"))) > 1, replace)
    try:
        options = ["engine=ray", f"address={bare_cluster.address}", "slots=1"]
        status, out, err = dipole("train", *LONG, *options, "run_dir=mine")
    finally:
        thread.join()
        for each in others:
            cut_off(each)
    assert (status, err) == (0, "")
    assert "it goes on, 1 of 3" in out
    assert_equal(Path("mine/model.zip"), unkilled(dipole))


def test_there_may_be_nothing_left_to_do(dipole: Command, engine: list[str]) -> None:
    assert dipole("train", *RUN, *UNTESTED, "run_dir=mine")[0] == 0
    status, out, err = dipole("train", *RUN, *UNTESTED, *engine, "run_dir=mine", "resume=auto")
    assert (status, err) == (0, "")
    assert "mine: is finished" in out


def test_a_run_that_replaces_another_is_another_to_its_trackers(dipole: Command, engine: list[str]) -> None:
    Path("mine").mkdir()
    Path("mine/config.yaml").touch()
    Path("mine/trackers.json").write_text('{"wandb/dipole-sb3": "the-old-run"}')
    assert dipole("train", *RUN, *UNTESTED, *engine, "run_dir=mine", "replace=true")[0] == 0
    assert Path("mine/model.zip").exists()
    assert not Path("mine/trackers.json").exists()


IN_ITS_OWN_FILES = ["unshare", "--map-root-user", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


needs_own_files = pytest.mark.skipif(
    shutil.which("unshare") is None or subprocess.run([*IN_ITS_OWN_FILES, "true"], check=False).returncode != 0,
    reason="no file system of one's own here",
)


def machine_without(folder: Path, cluster: Cluster) -> subprocess.Popen[bytes]:
    """A machine that has another, empty folder there."""
    hidden = ["sh", "-c", 'mount -t tmpfs none "$0" && exec "$@"', str(folder)]
    return machine(cluster, *IN_ITS_OWN_FILES, *hidden)


@needs_own_files
def test_what_a_machine_without_the_folder_makes_comes_back(
    dipole: Command, bare_cluster: Cluster, tmp_path: Path
) -> None:
    """Also the checkpoint with which it goes on after its process was killed."""
    first = machine_without(tmp_path, bare_cluster)
    killed: list[int] = []

    def kill() -> None:
        processes = Path("/proc").glob("[0-9]*/cmdline")
        (task,) = [int(path.parent.name) for path in processes if b"_perform_in" in path.read_bytes()]
        killed.append(task)
        os.kill(task, signal.SIGKILL)

    folder = Path("mine").absolute()
    thread = when(lambda: len(list(folder.glob("checkpoints/*.zip"))) > 1, kill)
    try:
        options = ["engine=ray", f"address={bare_cluster.address}", "slots=1", "offline_steps=3000"]
        status, out, err = dipole("train", *LONG, *options, "run_dir=mine")
    finally:
        thread.join()
        cut_off(first)
    assert (status, err) == (0, "")
    assert killed
    assert "it goes on, 1 of 3" in out
    assert len(list(folder.glob("checkpoints/*.zip"))) == 2  # older ones are gone here, too
    assert_equal(Path("mine/model.zip"), unkilled(dipole, "offline_steps=3000"))
    rows = [Path(each, "progress.csv").read_text().count("\n") for each in ("mine", "whole")]
    assert rows[0] == rows[1]


@needs_own_files
def test_a_run_goes_on_where_the_folder_is_shared_after_a_machine_without_it(
    dipole: Command, bare_cluster: Cluster, tmp_path: Path
) -> None:
    first, others = machine_without(tmp_path, bare_cluster), list[subprocess.Popen[bytes]]()
    folder = Path("mine").absolute()

    def replace() -> None:
        cut_off(first)
        others.append(machine(bare_cluster))

    thread = when(lambda: len(list(folder.glob("checkpoints/*.zip"))) > 1, replace)
    try:
        options = ["engine=ray", f"address={bare_cluster.address}", "slots=1", "offline_steps=3000"]
        status, out, err = dipole("train", *LONG, *options, "run_dir=mine")
    finally:
        thread.join()
        for each in others:
            cut_off(each)
    assert (status, err) == (0, "")
    assert "it goes on, 1 of 3" in out
    assert (folder / "model.zip").exists()


@needs_own_files
def test_what_another_process_writes_here_is_left_to_it(dipole: Command, bare_cluster: Cluster, tmp_path: Path) -> None:
    first, folder, ended = machine_without(tmp_path, bare_cluster), Path("mine").absolute(), threading.Event()

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
        options = ["engine=ray", f"address={bare_cluster.address}", "slots=1", "offline_steps=100000"]
        status, _, err = dipole("train", *LONG, *options, "run_dir=mine")
    finally:
        ended.set()
        thread.join()
        cut_off(first)
    assert status == 1
    assert f"process {os.getpid()} on" in err
    assert "1 of 1 tasks failed" in err
    assert not (folder / "checkpoints").exists()


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_that_is_ended_can_go_on(dipole: Command, tmp_path: Path, end: signal.Signals) -> None:
    command = [sys.executable, "-m", "dipole_sb3.cli", "train", *LONG, "engine=ray", "slots=1", "run_dir=mine"]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    folder = Path("mine").absolute()
    when(lambda: len(list(folder.glob("checkpoints/*.zip"))) > 1, lambda: driver.send_signal(end)).join()
    out, _ = driver.communicate(timeout=120)
    if end == signal.SIGKILL:
        assert driver.returncode == -signal.SIGKILL
    else:
        assert driver.returncode == (130 if end == signal.SIGINT else 75), out
        assert "stopped, and saved" in out
        assert "Go on with\n  dipole train engine=ray slots=1 resume=mine" in out
    status, out, err = in_its_own_process("train", "engine=ray", "slots=1", "resume=mine")
    assert (status, err) == (0, "")
    assert_equal(Path("mine/model.zip"), unkilled(dipole))


def test_a_task_that_fails_says_so_and_the_others_end_well(dipole: Command, engine: list[str], tmp_path: Path) -> None:
    options = ["task=custom", "task.dataset=absent.npz", "task.env=Reacher-v5", *UNTESTED]
    status, out, err = dipole("train", *options, *engine, "run_dir=mine")
    assert status == 1
    assert "absent.npz" in err
    assert "1 of 1 tasks failed; go on with" in err
    assert "Traceback" not in err + out


def test_a_run_is_replaced_only_when_the_new_one_has_its_data(dipole: Command, engine: list[str]) -> None:
    assert dipole("train", *RUN, *UNTESTED, "run_dir=mine")[0] == 0
    before = parameters(Path("mine/model.zip"))
    absent = [*RUN, *UNTESTED, "run_dir=mine", "replace=true", "task.dataset=absent.npz"]
    assert dipole("train", *absent, *engine)[0] == 1
    for name, value in parameters(Path("mine/model.zip")).items():
        assert torch.equal(value, before[name])
    # It is still to be replaced, with the options of the new one.
    status, _, err = dipole("train", *engine, "resume=mine")
    assert status == 1
    assert "absent.npz" in err
    assert dipole("train", *RUN, *UNTESTED, "offline_steps=7", "run_dir=mine", "replace=true", *engine)[0] == 0
    assert DIPOLE.load("mine/model.zip").num_timesteps == 7
    assert not Path("mine/replacing.yaml").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["engine=rya"], "engine is rya, expected local or ray"),
        (["slots=2"], "slots belong to engine=ray"),
        (["engine=ray", "slots=0"], "slots is 0, expected a whole number of at least 1"),
        (["engine=ray", "slots=x"], "slots is x, expected a whole number of at least 1"),
        (["engine=ray", "gpus_per_task=1.5"], "gpus_per_task is 1.5, expected a whole number, or a part of one GPU"),
        (["engine=ray", "gpus_per_task=-1"], "gpus_per_task is -1, expected a number of at least 0"),
        (["engine=ray", "cpus_per_task=1.5"], "cpus_per_task is 1.5, expected a whole number of at least 1"),
        (["engine=ray", "address=127.0.0.1:1"], "address=127.0.0.1:1: no Ray cluster to work in"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    dipole: Command, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "5")
    status, _, err = dipole("train", *RUN, *UNTESTED, *options, "run_dir=mine")
    assert status == 1
    assert message in err
    assert not Path("mine").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_while_no_task_runs_ends_with_the_status_of_what_can_go_on(
    cluster: Cluster, number: signal.Signals
) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended, connected(Engine(address=cluster.address)):
        signal.raise_signal(number)
    assert ended.value.code == 75
    assert not ray.is_initialized()
    assert signal.getsignal(number) == before


# Other commands


def test_models_are_evaluated_each_by_a_task(dipole: Command, engine: list[str]) -> None:
    assert dipole("train", "task=reacher", *UNTESTED, "runs=2", "run_dir=runs")[0] == 0
    asked = ["model=runs/seed0", "model=runs/seed1", "episodes=2", "omegas=[0,1]", "candidates=[1]", "pictures=false"]
    status, out, err = dipole("evaluate", *asked, *engine, "out=spread")
    assert (status, err) == (0, "")
    assert "[2/2]" in out
    status, here, err = dipole("evaluate", *asked, "out=here")
    assert (status, err) == (0, "")
    for table in ("seed0/omega_sweep.csv", "seed1/omega_sweep.csv", "omega_sweep_over_runs.csv"):
        assert Path("spread", table).read_text() == Path("here", table).read_text()
    assert here.split("\n\nEach model")[0] in out


def test_a_benchmark_of_a_cluster_is_that_of_one_process(dipole: Command, engine: list[str], tmp_path: Path) -> None:
    suite = tmp_path / "mine.yaml"
    suite.write_text("{about: Small., tasks: [{task: reacher}], algos: [dipole, iql], seeds: 2}")
    options = [f"suite={suite}", *TINY, "algo.verbose=0", "episodes=2", "eval_freq=10", "eval_episodes=2"]
    options += ["algo.acceleration=eager"]
    status, out, err = dipole("benchmark", *options, *engine, "out=spread")
    assert (status, err) == (0, "")
    assert "dipole on reacher, seeds 0, 1: done" in out
    assert dipole("benchmark", *options, "out=here")[0] == 0
    found, expected = (
        np.genfromtxt(f"{folder}/results.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
        for folder in ("spread", "here")
    )
    for name in found.dtype.names:
        if found[name].dtype.kind == "f":
            np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)
        else:
            np.testing.assert_array_equal(found[name], expected[name])
    # Nothing is left to do, and no cluster is needed to see it.
    assert dipole("benchmark", *options, "out=spread")[0] == 0
    assert dipole("benchmark", *options, *engine, "out=spread")[0] == 0


def test_made_data_are_the_same_from_a_cluster(dipole: Command, engine: list[str]) -> None:
    made = ["data", "make", "ogbench/pointmaze-medium-navigate", "--episodes", "3"]
    status, out, err = dipole(*made, "--dir", "spread", "--engine", "ray", "--address", engine[1].partition("=")[2])
    assert (status, err) == (0, "")
    assert out.endswith("spread/pointmaze-medium-navigate-v0.npz\n")
    assert dipole(*made, "--dir", "here")[0] == 0
    for name in ("pointmaze-medium-navigate-v0.npz", "pointmaze-medium-navigate-v0-val.npz"):
        found, expected = np.load(f"spread/{name}"), np.load(f"here/{name}")
        assert found.files == expected.files
        for key in found.files:
            np.testing.assert_array_equal(found[key], expected[key])
    assert sorted(path.name for path in Path("spread").iterdir()) == sorted(
        path.name for path in Path("here").iterdir()
    )


def test_a_task_that_no_machine_of_ones_own_could_do_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    status, _, err = in_its_own_process("train", *RUN, *UNTESTED, "engine=ray", "gpus_per_task=1", "run_dir=mine")
    assert status == 1
    assert "a task needs 1 CPU and 1 GPU, and the largest machine of the cluster has" in err
    assert not Path("mine").exists()


# The parts of it


def test_options_are_read_and_said_again() -> None:
    engine, rest = taken_from(["task=reacher", "engine=ray", "slots=8", "gpus_per_task=0.5", "address=auto"])
    assert (engine, rest) == (Engine(8, 0.5, 1, "auto"), ["task=reacher"])
    assert engine.options == ["engine=ray", "slots=8", "gpus_per_task=0.5", "address=auto"]
    assert taken_from(engine.options) == (engine, [])
    assert taken_from(["seed=1"]) == (None, ["seed=1"])


def test_parts_of_a_gpu_add_up_to_it() -> None:
    needed = {"CPU": 1.0}
    assert [room_on({"CPU": 16.0, "GPU": 1.0}, needed | {"GPU": 1 / parts}) for parts in range(1, 11)] == [
        *range(1, 11)
    ]
    assert room_on({"CPU": 16.0, "GPU": 1.0}, needed | {"GPU": 0.3}) == 3
    assert room_on({"CPU": 16.0}, needed | {"GPU": 0.5}) == 0


def _read_names(tell: Tell) -> None:
    tell(" ".join(sorted(path.name for path in Path("run").iterdir())), 1.0)
    Path("run/model.zip").write_text("new")


def work_elsewhere(
    monkeypatch: pytest.MonkeyPatch, directory: str | None = None
) -> tuple[Outcome, list[str], list[Parcel]]:
    """What a task does and sends on a machine that does not see the command's folders."""
    words, parcels = list[str](), list[Parcel]()
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    office = Office(lambda _, what, __: words.append(what), lambda _, parcel: parcels.append(parcel))
    task = Task("one", _read_names, [Path("run")], [Path("run")])
    order = Order("0", task, Path("run/.mark-0"), {"run/config.yaml": b"new"})
    return perform(order, Place(directory or os.getcwd(), {}, 1), office), words, parcels


def test_what_an_earlier_task_left_on_a_machine_is_of_no_run_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert work_elsewhere(monkeypatch)[0].end == "done"
    for _ in range(2):
        outcome, words, parcels = work_elsewhere(monkeypatch)
        assert outcome.end == "done"
        assert words[-1] == ".copy config.yaml"  # no model.zip
        assert parcels[-1].changed == {"run/model.zip": b"new"}


def test_the_own_run_of_a_machine_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/config.yaml").write_text("of another")
    outcome, _, parcels = work_elsewhere(monkeypatch)
    assert outcome.end == "failed"
    assert "there are other files in it" in outcome.message
    assert not parcels
    assert [path.name for path in Path("run").iterdir()] == ["config.yaml"]
    assert Path("run/config.yaml").read_text() == "of another"


def test_what_a_machine_without_the_working_directory_holds_is_gone_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outcome, _, parcels = work_elsewhere(monkeypatch, "/nowhere/at/all")
    assert (outcome.end, parcels[-1].changed) == ("done", {"run/model.zip": b"new"})
    assert not list(tmp_path.iterdir())


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 20))
def test_groups_are_cut_so_that_every_slot_has_something_to_do(sizes: list[int], slots: int) -> None:
    groups = [[(group, member) for member in range(size)] for group, size in enumerate(sizes)]
    parts = split(groups, slots)
    assert [each for part in parts for each in part] == [each for group in groups for each in group]
    assert all(len({group for group, _ in part}) == 1 for part in parts)
    assert len(parts) == max(len(groups), min(slots, sum(sizes)))
    # Nothing could be cut to make the largest part smaller without a further slot.
    for group in range(len(sizes)):
        own = [len(part) for part in parts if part[0][0] == group]
        assert max(own) - min(own) <= 1


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.binary(max_size=8)), max_size=12), st.data())
def test_folders_are_alike_after_every_parcel(changes: list[tuple[str, bytes | None]], data: st.DataObject) -> None:
    base = Path(subprocess.check_output(["mktemp", "-d"], text=True).strip())
    there, here = base / "there", base / "here"
    before = os.getcwd()
    try:
        for folder in (there, here):
            (folder / "run").mkdir(parents=True)
        (here / "run/own").write_bytes(b"not from there")
        os.chdir(there)
        sender, receiver = Sender([Path("run")]), Receiver()
        for number, (name, content) in enumerate(changes):
            os.chdir(there)
            if content is None:
                Path("run", name).unlink(missing_ok=True)
            else:
                Path("run", name).write_bytes(content)
                os.utime(Path("run", name), ns=(number, number))
            if data.draw(st.booleans()):
                parcel = sender.pack()
                os.chdir(here)
                if parcel is not None:
                    receiver.unpack(parcel)
                found = {path.name: path.read_bytes() for path in (here / "run").iterdir()}
                expected = {path.name: path.read_bytes() for path in (there / "run").iterdir()}
                assert found == expected | {"own": b"not from there"}
    finally:
        os.chdir(before)
        shutil.rmtree(base)
