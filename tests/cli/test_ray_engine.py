"""``engine=ray``: what commands leave is the same from the processes of a real cluster."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from commands import TINY, UNTESTED, Command, parameters
from ray.cluster_utils import Cluster

from dipole_sb3 import DIPOLE
from dipole_sb3.cli.engine import Engine
from dipole_sb3.cli.engine.cluster import _slots as room
from dipole_sb3.cli.engine.cluster import connected
from dipole_sb3.plots import benchmark as benchmark_plots

# Eager, because `auto` may choose another way of updating for a run of another length, which rounds differently.
RUN = ["task=reacher", "algo.acceleration=eager", "seed=3"]


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


def test_runs_of_a_cluster_are_those_of_one_process(dipole: Command, engine: list[str]) -> None:
    options = ["task=reacher", *TINY, "algo.acceleration=eager", "episodes=2", "omegas=[0,1]", "candidates=[1]"]
    sweep = ["-m", "seed=0,1", "algo.flow_steps=2,3"]
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
    assert len(list(Path("spread").glob("*/omega_sweep.csv"))) == 4
    assert not list(Path("spread").rglob(".mark*"))


def test_there_may_be_nothing_left_to_do(dipole: Command, engine: list[str]) -> None:
    assert dipole("train", *RUN, *UNTESTED, "run_dir=mine")[0] == 0
    status, out, err = dipole("train", *RUN, *UNTESTED, *engine, "run_dir=mine", "resume=auto")
    assert (status, err) == (0, "")
    assert "mine: is finished" in out


def test_a_run_is_replaced_only_when_the_new_one_has_its_data(dipole: Command, engine: list[str]) -> None:
    assert dipole("train", *RUN, *UNTESTED, "run_dir=mine")[0] == 0
    Path("mine/trackers.json").write_text('{"wandb/dipole-sb3": "the-old-run"}')
    before = parameters(Path("mine/model.zip"))
    absent = [*RUN, *UNTESTED, "run_dir=mine", "replace=true", "task.dataset=absent.npz"]
    status, out, err = dipole("train", *absent, *engine)
    assert status == 1
    assert "absent.npz" in err
    assert "1 of 1 tasks failed; go on with" in err
    assert "Traceback" not in err + out
    for name, value in parameters(Path("mine/model.zip")).items():
        assert torch.equal(value, before[name])
    # It is still to be replaced, with the options of the new one.
    status, _, err = dipole("train", "resume=mine")
    assert status == 1
    assert "absent.npz" in err
    assert dipole("train", *RUN, *UNTESTED, "offline_steps=7", "run_dir=mine", "replace=true", *engine)[0] == 0
    assert DIPOLE.load("mine/model.zip").num_timesteps == 7
    assert not Path("mine/replacing.yaml").exists()
    # To its trackers it is another.
    assert not Path("mine/trackers.json").exists()


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


def test_a_benchmark_of_a_cluster_is_that_of_one_process(
    dipole: Command, engine: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark_plots, "REPETITIONS", 20)  # nobody looks at the pictures here
    suite = tmp_path / "mine.yaml"
    suite.write_text(
        "{about: Small., tasks: [{task: reacher}], algos: [dipole, iql], seeds: 2, "
        "options: {dipole: ['omegas=[0,0.5]', 'candidates=[1]', algo.num_candidates=1]}}"
    )
    options = [f"suite={suite}", *TINY, "algo.verbose=0", "episodes=2", "processes=1", "algo.acceleration=eager"]
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
    made = ["data", "make", "ogbench/pointmaze-medium-navigate", "--episodes", "2"]
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


def test_a_task_that_no_machine_of_ones_own_could_do_is_refused(cluster: Cluster) -> None:
    """Of a cluster that somebody else runs, one says so and waits."""
    sentence = "a task needs 1 CPU and 1 GPU, and the largest machine of the cluster has 1 CPU, 0 GPU"
    with connected(Engine(address=cluster.address)), pytest.raises(ValueError, match=sentence):
        room(Engine(gpus_per_task=1), own=True)
