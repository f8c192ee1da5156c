"""``make camera-demo`` in small: an arm that sees, from drawn pictures to commands over ROS 2."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from dipole_runtime import read_bundle

from dipole_sb3 import load_dataset
from dipole_sb3.common import renderers
from dipole_sb3.common.errors import DatasetError

CONTRACT = Path(__file__).resolve().parents[2] / "ros2_ws/src/dipole_policy/contracts/simulated_camera_arm.yaml"
LIKE_SEEN = """
import gymnasium, numpy as np
env = gymnasium.make("dipole_policy.camera_arm:CameraReacher-v0")
seen, _ = env.reset(seed=0)
for _ in range(7):
    seen, *_ = env.step(np.array([0.7, -0.4], np.float32))
assert env.observation_space.contains(seen)
shown = env.get_wrapper_attr("show")(env.unwrapped._get_obs())
assert np.array_equal(shown["joints"], seen["joints"])
# The angles come from their cosines and sines, rounded: edges may move by less than a pixel.
assert (np.abs(shown["camera"].astype(int) - seen["camera"]) > 2).mean() < 0.005
assert seen["camera"].std() > 10
large = gymnasium.make("dipole_policy.camera_arm:CameraReacher-v0", width=200, height=200)
large.reset(seed=0)
assert large.render().shape == (192, 192, 3)
"""


@pytest.fixture(scope="module")
def renderer() -> str:
    try:
        return renderers.off_screen_renderer("this test")
    except DatasetError as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))


def run(*command: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def test_a_state_is_shown_as_the_environment_sees_it(renderer: str, tmp_path: Path) -> None:
    finished = run("-c", LIKE_SEEN, folder=tmp_path, MUJOCO_GL=renderer)
    assert finished.returncode == 0, finished.stderr


@pytest.fixture(scope="module")
def demonstrated(renderer: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The demo's folder and what it printed; it chooses the renderer itself."""
    folder = tmp_path_factory.mktemp("camera")
    options = ["made_episodes=2", "offline_steps=3", "algo.batch_size=8", "algo.flow_steps=2", "candidates=[1]"]
    options += ["episodes=1", "driven_episodes=1", "omegas=[0,4]", "film=[0,1]", "algo.policy_kwargs.net_arch=[16]"]
    finished = run("-m", "dipole_export.cli", "demo", "task=camera-reacher", *options, "processes=1", folder=folder)
    assert finished.returncode == 0, finished.stderr
    return folder, finished.stdout


def test_data_are_the_recording_seen_by_the_camera(demonstrated: tuple[Path, str]) -> None:
    drawn = load_dataset(demonstrated[0] / "runs" / "camera-demo-data", device="cpu")
    recorded = load_dataset("demo/reacher-scripted-30k", device="cpu")
    seen, states = next(drawn.blocks(100)), next(recorded.blocks(100))
    assert drawn.size() == 100
    for name in ("actions", "rewards", "dones", "timeouts"):
        np.testing.assert_array_equal(seen[name], states[name])
    np.testing.assert_array_equal(seen["observations"]["joints"], states["observations"][:, [0, 1, 2, 3, 6, 7]])
    following = seen["next_observations"]["camera"][:49]
    np.testing.assert_array_equal(seen["observations"]["camera"][1:50], following)


def test_it_ends_with_bundles_that_see_and_a_film(demonstrated: tuple[Path, str]) -> None:
    folder, printed = demonstrated[0] / "runs" / "camera-demo", demonstrated[1]
    for name in ("bundle", "bundle-int8"):
        (picture,) = read_bundle(folder / name).manifest.pictures
        assert (picture.key, picture.shape) == ("camera", (64, 64, 3))
        with open(folder / f"{name}.csv", newline="") as file:
            assert [float(row["omega"]) for row in csv.DictReader(file)] == [0.0, 4.0]
    assert (folder / "film.png").read_bytes().startswith(b"\x89PNG")
    assert "Success from the model in PyTorch and from its bundles without it" in printed
    assert "in a browser" not in printed


def test_it_is_driven_over_ros_by_pictures(demonstrated: tuple[Path, str], tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")
    # Time for a machine that is busy.
    contract = tmp_path / "arm.yaml"
    contract.write_text(CONTRACT.read_text().replace("deadline_s: 0.2", "deadline_s: 2.0"))
    bundle = demonstrated[0] / "runs" / "camera-demo" / "bundle"
    options = ["--bundle", str(bundle), "--contract", str(contract), "--out", str(tmp_path / "ros")]
    options += ["--camera", "64", "--episode-steps", "10", "--episodes", "1", "--omegas", "0", "4"]
    finished = run("-m", "dipole_policy.demo", *options, folder=tmp_path)
    assert finished.returncode == 0, finished.stderr + finished.stdout
    assert "topic      omega 0.0 → 4.0: accepted" in finished.stdout
    assert "the last command was [0.0, 0.0]" in finished.stdout
    assert (tmp_path / "ros" / "ros_demo.png").read_bytes().startswith(b"\x89PNG")
