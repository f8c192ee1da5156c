"""``dipole export`` and what ``dipole demo`` does with bundles, as a user runs them."""

from __future__ import annotations

import csv
import functools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dipole_export import demo
from dipole_export.cli import main
from dipole_export.command import provenance_of_run
from dipole_export.robot.drive import CANNOT_DRAW
from dipole_runtime import GuidedPolicy

from dipole_sb3 import DIPOLE
from dipole_sb3.common import renderers
from dipole_sb3.datasets.ogbench import generation
from dipole_sb3.evaluation.batched_acting import normalized_observations

DRIVE = Path(demo.__file__).parent / "robot" / "drive.py"


def dipole(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    command = [sys.executable, "-m", "dipole_export.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MUJOCO_GL": "disable", "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=environment, check=False)


def status_of(arguments: Sequence[str]) -> int:
    """The command's exit status, in this process."""
    try:
        return main(arguments)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 1


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
        assert manifest.provenance["dataset"]["name"] == "demo/reacher-scripted-30k"
        assert manifest.provenance["timesteps"] == 20
        with open(folder / f"{name}.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        cells = [(float(row["omega"]), int(row["num_candidates"])) for row in rows]
        assert cells == [(0, 1), (4, 1), (0, 4), (4, 4)]
        assert all(-200 < float(row["return_mean"]) < 0 for row in rows)
        assert all(f"{100 * float(row['success_mean']):.0f} %" in printed for row in rows)
    assert "PyTorch N=4" in printed
    assert "p99" in printed
    assert f"open {Path('runs/demo/page/index.html')}" in printed
    assert (folder / "page" / "index.html").stat().st_size > 1e6


def test_the_demo_of_a_task_with_success_makes_its_data_and_tells_success(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    operators_read_once: None,
) -> None:
    """The whole of it on OGBench's cube, tiny; where MuJoCo cannot draw, one sentence says so."""
    monkeypatch.chdir(tmp_path)
    # Whole episodes of data take 1,000 steps.
    short = functools.partial(generation.make_dataset, max_episode_steps=60)
    monkeypatch.setattr(generation, "make_dataset", short)
    real = demo._robot

    def robot(*arguments: Any) -> dict[str, Any]:
        """Films a few small frames."""
        *first, options = arguments[:6]
        of_film = {"--size": "64", "--every": "20"} if "--film" in options else {}
        return real(*first, {**options, **of_film}, *arguments[6:])

    monkeypatch.setattr(demo, "_robot", robot)
    options = ["made_episodes=1", "offline_steps=10", "episodes=2", "driven_episodes=1", "omegas=[0,1]"]
    options += ["candidates=[1]", "film=[0,1]", "algo.policy_kwargs.net_arch=[72,72]", "algo.flow_steps=2"]
    options += ["algo.batch_size=16", "processes=1"]
    status, printed = status_of(["demo", "task=ogbench/cube-single-play", *options]), capfd.readouterr()
    assert status == 0, printed.err
    assert (tmp_path / "runs" / "cube-demo-data" / "cube-single-play-v0.npz").exists()
    folder = tmp_path / "runs" / "cube-demo"
    with open(folder / "bundle.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(float(row["omega"]), float(row["success_mean"]), int(row["episodes"])) for row in rows] == [
        (0, 0, 1),
        (1, 0, 1),
    ]
    title = "Success from the model in PyTorch and from its bundles without it (the first 1 of 2 episodes)"
    assert title in printed.out
    filmed = [(folder / name).exists() for name in ("film.png", "film.gif")]
    sentence = "Filmed: the start of episode 1 of 2, N = 1, ω = 0: not done, ω = 1: not done"
    cannot = "No film: MuJoCo cannot draw here (egl: "
    assert (filmed, sentence in printed.out, cannot in printed.out) in (
        ([True, True], True, False),
        ([False, False], False, True),
    )
    assert (folder / "omega_sweep.png").exists()
    assert not (folder / "paths.png").exists()


def test_the_driving_process_cannot_import_torch(demo_run: tuple[Path, str]) -> None:
    program = f"import runpy; runpy.run_path({str(DRIVE)!r})['forbid']('torch'); import torch"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "ModuleNotFoundError: import of torch halted" in finished.stderr
    options = ["--env", "Reacher-v5", "--omegas", "0", "--candidates", "1", "--episodes", "1"]
    command = [sys.executable, DRIVE, demo_run[0] / "bundle", *options]
    again = [subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(2)]
    returns = [finished.stdout.partition('"latencies_s"')[0] for finished in again]
    assert returns[0] == returns[1], "the same seed gives the same episode"


@pytest.mark.parametrize("renderer", renderers.OFF_SCREEN)
def test_films_a_start_at_several_values(demo_run: tuple[Path, str], tmp_path: Path, renderer: str) -> None:
    options = ["--env", "Reacher-v5", "--omegas", "-1", "2", "--candidates", "1", "--episodes", "2", "--size", "64"]
    options += ["--every", "20", "--film", str(tmp_path / "film.npz")]
    command = [sys.executable, str(DRIVE), str(demo_run[0] / "bundle"), *options]
    environment = {**os.environ, "MUJOCO_GL": renderer}
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if finished.returncode == CANNOT_DRAW:
        pytest.skip(f"{renderer} cannot draw here: {finished.stderr.splitlines()[-1]}")
    assert finished.returncode == 0, finished.stderr
    told = json.loads(finished.stdout.splitlines()[-1])
    # Nothing tells success: the first start, for 50 steps of 0.02 s.
    assert (told["episode"], told["every"]) == (0, 20)
    ends = [(end["success"], round(end["seconds"], 6), round(end["seconds_of_a_step"], 6)) for end in told["ends"]]
    assert ends == [(None, 1.0, 0.02)] * 2
    frames = np.load(tmp_path / "film.npz")["frames"]
    assert (frames.shape, frames.dtype) == ((2, 2, 64, 64, 3), np.uint8)
    assert frames.std() > 5
    assert (frames[0, -1] != frames[1, -1]).any(), "ω is turned"
    # What fails for another reason says that reason.
    command[command.index("2")] = "99"
    failed = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert failed.returncode == 1
    assert "omega" in failed.stderr.splitlines()[-1]


def test_a_run_is_exported_with_what_is_known_of_it(
    demo_run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--omega", "2", "--omega-range", "0", "3", "--precision", "int8"]
    options += ["--dataset", "demo/reacher-scripted-30k"]
    assert status_of(["export", str(demo_run[0]), "robot.dipole", *options]) == 0
    assert "robot.dipole: int8, observation 10 → action 2, ω 0 … 3 (default 2)" in capfd.readouterr().out
    policy = GuidedPolicy.load(tmp_path / "robot.dipole")
    assert policy.manifest.provenance["dataset"]["name"] == "demo/reacher-scripted-30k"
    model = DIPOLE.load(demo_run[0] / "model.zip", device="cpu")
    observation, noise = np.full(10, 0.1), policy.deterministic_noise()
    seen = normalized_observations(model, observation)  # SB3's predict takes what VecNormalize gives
    expected, _ = model.predict(seen, deterministic=True, omega=2.0)
    np.testing.assert_allclose(policy.act(observation, noise=noise).action, expected, atol=0.05)


@pytest.mark.parametrize(("least", "given"), [(-0.02, "-0.02"), (-0.00001, "-0.00001"), (3, "3.0")])
def test_what_is_success_is_handed_on(least: float, given: str) -> None:
    options = demo._success_options({"success": {"info": "reward_dist", "least": least}})
    assert options == ("--success", "reward_dist", given)


def test_provenance_has_no_folder_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("task: {dataset: /home/ann/a.npz}\nseed: 3\n")
    facts = {
        "command": "dipole data from-bag /home/ann/bag --out ../a.npz",
        "bundle": "/home/ann/robot.dipole",
        "source": "/home/ann/my data/bag",
        "contract": "topic: /joint_states",
        "transitions": 5,
    }
    (tmp_path / "dataset.json").write_text(json.dumps(facts))
    found = provenance_of_run(tmp_path / "model.zip")
    names = {"command": "dipole data from-bag bag --out ../a.npz", "bundle": "robot.dipole", "source": "bag"}
    assert found == {"dataset": {**facts, **names, "name": "a.npz"}, "seed": 3}


def test_failures_are_one_sentence(
    demo_run: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "todo.txt").write_text("buy a robot")
    for arguments, words in (
        (["export", "nothing.zip", "bundle"], "nothing.zip: no such file"),
        (["export", str(demo_run[0]), "notes"], "holds todo.txt"),
        (["export", str(demo_run[0]), "bundle", "--omega-range", "1", "4"], "omega 0.5 is not in omega_range"),
        (["export", str(demo_run[0]), "bundle", "--omega", "-3"], "at least -1"),
        (["export", str(demo_run[0]), "bundle", "--dataset", "demo/nothing"], "demo/nothing"),
        (["demo", "algo=fql"], "algo is fql, expected one whose ω and N the demo can turn"),
        (["demo", "task=exorl/walker-run"], "expected Reacher's arm, which the demo draws"),
    ):
        assert status_of(arguments) == 1
        error = capfd.readouterr().err
        assert words in error
        assert error.startswith("dipole: ")
        assert len(error.splitlines()) == 1, error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes"]


def test_help_shows_every_command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert status_of(["--help"]) == 0
    printed = capfd.readouterr().out
    assert all(f"\n    {name} " in printed for name in ("data", "export", "train", "evaluate", "demo"))
    assert status_of(["export", "--help"]) == 0
    assert "--precision {fp32,int8}" in capfd.readouterr().out
