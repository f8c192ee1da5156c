"""Settings and recorded data that all tests share."""

from __future__ import annotations

import functools
import gc
import os
import sys
from contextlib import suppress
from pathlib import Path

# Before anything imports MuJoCo: tests never draw, and a machine without a display must run them.
os.environ.setdefault("MUJOCO_GL", "disable")

import gymnasium
import hypothesis
import pytest
import torch
from commands import Command
from recordings import Arrays, record
from sampled_environments import dict_env, image_env

from dipole_sb3.cli import main

torch.set_num_threads(1)
# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")
with suppress(ImportError):
    from absl import logging as absl_logging

    # dm_control's log keeps the stderr that it finds when it is imported, and closes it when Hydra sets up the logs:
    # here that would be the file into which pytest captures.
    absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__


LONG = (
    "test_ray_losses.py",
    "test_cli_runs.py",
    "test_ray_engine.py",
    "test_accelerator.py",
    "test_sampled_forms.py",
    "test_command.py",
    "test_parity.py",
    "test_deterministic.py",
    "test_cli.py",
    "test_benchmark.py",
    "test_camera_demo.py",
    "test_benchmarks.py",
    "test_launchers.py",
    "test_driving_commands.py",
    "test_ros_colcon.py",
    "test_docs.py",
    "test_resume_auto.py",
    "test_hooks.py",
    "test_summary.py",
    "test_contract_beyond_learning.py",
    "test_train_speed.py",
    "test_export.py",
    "test_exorl_interruptions.py",
    "test_ogbench_interruptions.py",
    "test_ogbench_pictures.py",
    "test_background_evaluation.py",
    "test_killed_runs.py",
)
"""Files that take more than half a minute, the longest first: where files run side by side, one that began last would
run alone. Those of Ray do not begin at the same time, for each has a cluster of its own."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take long come first; tests marked ``cuda`` are skipped where there is no such device."""
    order = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(LONG)))
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("cuda") is not None:
            item.add_marker(pytest.mark.skip(reason="no CUDA device here"))


def pytest_collection_finish() -> None:
    """What is imported by now stays: no garbage collection need look at its hundreds of thousands of objects again.

    OGBench's loader asks for a full one whenever it has looked at a scene; others, which took a tenth of the suite's
    time, come less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000)


@pytest.fixture(scope="session")
def operators_read_once() -> None:
    """For tests that export: PyTorch reads onnxscript's whole library of operators for every graph, which takes longer
    than to trace a small one.

    These names are PyTorch's own; where they are others, exports only take longer.
    """
    with suppress(ImportError, AttributeError):
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        read_once = staticmethod(functools.cache(ONNXRegistry.from_torchlib))
        ONNXRegistry.from_torchlib = read_once  # type: ignore[method-assign, assignment]


@pytest.fixture
def dipole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs the command in an empty working directory; gives exit status, stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    monkeypatch.setattr(sys, "argv", ["dipole"])

    def run(*arguments: str) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            status = main(arguments)
        except SystemExit as stop:
            status = stop.code if isinstance(stop.code, int) else 1
        assert (sys.argv, os.environ.get("HYDRA_FULL_ERROR")) == (["dipole"], None), "as they were before"
        return (status, *capfd.readouterr())

    return run


@pytest.fixture(scope="session")
def pendulum_data() -> Arrays:
    """Actions in [−2, 2]; every end is a time limit (200 steps), so masks are all 1."""
    return record(gymnasium.make("Pendulum-v1"), 450)


@pytest.fixture(scope="session")
def reacher_data() -> Arrays:
    """MuJoCo; actions in [−1, 1]²; every end is a time limit (50 steps)."""
    return record(gymnasium.make("Reacher-v5"), 320)


@pytest.fixture(scope="session")
def inverted_pendulum_data() -> Arrays:
    """MuJoCo; actions in [−3, 3]; episodes end when the pole has fallen, so masks are 0 there."""
    return record(gymnasium.make("InvertedPendulum-v5"), 200)


@pytest.fixture(scope="session")
def dict_data() -> Arrays:
    """Dict observations: a vector and a channels-last image."""
    return record(dict_env(), 40)


@pytest.fixture(scope="session")
def image_data() -> Arrays:
    """Channels-last images, 36 × 36 × 3."""
    return record(image_env(), 40)
