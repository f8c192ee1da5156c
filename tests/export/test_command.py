"""``dipole export`` and what ``dipole demo`` does with bundles, as a user runs them."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dipole_export import demo
from dipole_runtime import GuidedPolicy

from dipole_sb3 import DIPOLE

DRIVE = Path(demo.__file__).parent / "robot" / "drive.py"


def dipole(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "dipole_export.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MUJOCO_GL": "disable", "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


@pytest.fixture(scope="module")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A run of the whole demo, too short to learn anything, and what it printed."""
    folder = tmp_path_factory.mktemp("demo")
    finished = dipole(
        *[
            "demo",
            "offline_steps=20",
            "episodes=2",
            "omegas=[0,4]",
            "pictures=false",
            "algo.policy_kwargs.net_arch=[72,72]",
        ],
        folder=folder,
    )
    assert finished.returncode == 0, finished.stderr
    return folder / "runs" / "demo", finished.stdout


def test_the_demo_ends_with_bundles_that_drive_without_torch(demo_run: tuple[Path, str]) -> None:
    folder, printed = demo_run
    for name, precision in (("bundle", "fp32"), ("bundle-int8", "int8")):
        manifest = GuidedPolicy.load(folder / name).manifest
        assert manifest.precision == precision
        assert manifest.provenance["dataset"]["name"] == "demo/reacher-tqc-10k"
        assert manifest.provenance["timesteps"] == 20
        with open(folder / f"{name}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        cells = [(float(row["omega"]), int(row["num_candidates"])) for row in rows]
        assert cells == [(0, 1), (4, 1), (0, 4), (4, 4)]
        assert all(-200 < float(row["return_mean"]) < 0 for row in rows)
        assert f"{float(rows[0]['return_mean']):.2f} ±" in printed
    assert "PyTorch N=4" in printed
    assert "p99" in printed


def test_the_driving_process_cannot_import_torch(demo_run: tuple[Path, str]) -> None:
    program = f"import runpy; runpy.run_path({str(DRIVE)!r})['forbid']('torch'); import torch"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError: import of torch halted" in finished.stderr
    options = ["--env", "Reacher-v5", "--omegas", "0", "--candidates", "1", "--episodes", "1"]
    command = [sys.executable, DRIVE, demo_run[0] / "bundle", *options]
    again = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    returns = [finished.stdout.partition('"latencies_s"')[0] for finished in again]
    assert returns[0] == returns[1], "the same seed gives the same episode"


def test_a_run_is_exported_with_what_is_known_of_it(demo_run: tuple[Path, str], tmp_path: Path) -> None:
    finished = dipole(
        *["export", demo_run[0], "robot.dipole", "--omega", "2", "--omega-range", "0", "3", "--precision", "int8"],
        *["--dataset", "demo/reacher-tqc-10k"],
        folder=tmp_path,
    )
    assert finished.returncode == 0, finished.stderr
    assert "robot.dipole: int8, observation 10 → action 2, ω 0 … 3 (default 2)" in finished.stdout
    policy = GuidedPolicy.load(tmp_path / "robot.dipole")
    assert policy.manifest.provenance["dataset"]["name"] == "demo/reacher-tqc-10k"
    model = DIPOLE.load(demo_run[0] / "model.zip", device="cpu")
    observation, noise = np.full(10, 0.1), policy.deterministic_noise()
    expected, _ = model.predict(observation, deterministic=True, omega=2.0)
    np.testing.assert_allclose(policy.act(observation, noise=noise).action, expected, atol=0.05)


def test_failures_are_one_sentence(demo_run: tuple[Path, str], tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("buy a robot")
    for arguments, words in (
        (["export", "nothing.zip", "bundle"], "nothing.zip: no such file"),
        (["export", demo_run[0], "notes"], "holds todo.txt"),
        (["export", demo_run[0], "bundle", "--omega-range", "1", "4"], "omega 0.5 is not in omega_range"),
        (["export", demo_run[0], "bundle", "--omega", "-3"], "at least -1"),
        (["export", demo_run[0], "bundle", "--dataset", "demo/nothing"], "demo/nothing"),
    ):
        finished = dipole(*arguments, folder=tmp_path)
        assert finished.returncode == 1
        assert words in finished.stderr
        assert finished.stderr.startswith("dipole: ")
        assert len(finished.stderr.splitlines()) == 1, finished.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes"]


def test_help_shows_every_command(tmp_path: Path) -> None:
    finished = dipole("--help", folder=tmp_path)
    assert all(f"\n    {name} " in finished.stdout for name in ("data", "export", "train", "evaluate", "demo"))
    assert "--precision {fp32,int8}" in dipole("export", "--help", folder=tmp_path).stdout
