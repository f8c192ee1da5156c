"""The scripts in examples/ run as they are, only shorter, and say what they promise to say."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

from dipole_sb3 import DIPOLE

EXAMPLES = Path(__file__).parents[2] / "examples"

SHORTER = {
    "finetune_parallel.py": (
        ["--updates", "2", "--steps", "8", "--n-envs", "2", "--eval-episodes", "2"],
        r"after the recorded data: mean return -\d.*\nafter the environments: mean return -\d",
    ),
    "improve_on_tqc.py": (
        ["--agent-steps", "110", "--data-steps", "120", "--updates", "2", "--eval-episodes", "2"],
        r"TQC +-\d+\.\d\d   \[-?\d.*\]\nDIPOLE, ω = 0 +-\d+\.\d\d   \[.*\n.*\nDIPOLE, ω = 2",
    ),
    "own_arrays.py": (
        ["--episodes", "2", "--updates", "2", "--eval-episodes", "1"],
        r"recorded: mean return -\d+\nω = 0: mean return -\d+ ±",
    ),
    "robot_log.py": (["--updates", "2"], r"1980 transitions of 20 episodes\nangle -1: torque [+-]\d"),
    "scripted_arm.py": (["--steps", "150"], r"150 transitions in reacher-scripted.npz, mean return of an episode -\d"),
    "without_environment.py": (["--updates", "2"], r"10000 transitions, 200 episodes\nω = 0: action \[.*\]\nω = 2"),
}


def test_every_example_is_run_and_named_in_the_readme() -> None:
    found = {path.name for path in EXAMPLES.glob("*.py")}
    assert found == set(SHORTER)
    assert set(re.findall(r"\]\((\w+\.py)\)", (EXAMPLES / "README.md").read_text())) == found


@pytest.mark.parametrize("name", SHORTER)
def test_example(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options, says = SHORTER[name]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [name, *options])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    said = re.sub(".*it/s.*\n", "", capsys.readouterr().out)  # progress bars
    assert re.search(says, said)


def test_the_robots_log_becomes_the_transitions_that_are_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("log.csv").write_text(
        "episode,angle,speed,torque,reward\n"
        "0,1,10,0.1,-1\n0,2,20,0.2,-2\n0,3,30,0.3,-3\n"  # two transitions
        "1,4,40,0.4,-4\n"  # none
        "2,5,50,0.5,-5\n2,6,60,0.6,-6\n"  # one
    )
    monkeypatch.setattr(sys, "argv", ["robot_log.py", "log.csv", "--updates", "1"])
    buffer = runpy.run_path(str(EXAMPLES / "robot_log.py"))["buffer"]
    np.testing.assert_array_equal(buffer.observations[:, 0], [[1, 10], [2, 20], [5, 50]])
    np.testing.assert_array_equal(buffer.next_observations[:, 0], [[2, 20], [3, 30], [6, 60]])
    np.testing.assert_allclose(buffer.actions[:, 0, 0] * 3, [0.1, 0.2, 0.5], atol=1e-3)
    assert buffer.rewards[:, 0].tolist() == [-1, -2, -5]
    assert buffer.dones[:, 0].tolist() == buffer.timeouts[:, 0].tolist() == [0, 1, 1]
    assert isinstance(DIPOLE.load("robot.zip"), DIPOLE)
