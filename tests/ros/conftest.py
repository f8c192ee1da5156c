"""Bundles and contracts for a small robot; the ROS graph of the tests is this machine's alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
for folder in ("ros2_ws/src/dipole_policy", "ros2_ws/src/dipole_runtime", "tests/runtime", "tests/ros"):
    sys.path.insert(0, str(ROOT / folder))
# Before rclpy is imported anywhere, and inherited by the processes that tests start.
os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
if os.environ.get("ROS_DISTRO") == "humble":
    os.environ["ROS_LOCALHOST_ONLY"] = "1"
from domain import own_domain  # noqa: E402

# Of this process alone: tests that run side by side would share /clock otherwise.
os.environ["ROS_DOMAIN_ID"] = str(own_domain().number)

MISSING = [name for name in ("onnxruntime", "onnx", "yaml", "hypothesis") if find_spec(name) is None]
collect_ignore_glob = ["test_*.py"] if MISSING else []


def pytest_report_header() -> str:
    """Says why nothing of this folder runs."""
    return (
        f"tests/ros: not collected, because {', '.join(MISSING)} is not installed"
        if MISSING
        else "tests/ros: collected"
    )


@pytest.fixture(scope="session")
def make_bundle(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a bundle; the same arguments give the same directory."""
    from small_bundles import Sizes, files_of, make_policy, rehashed

    root = tmp_path_factory.mktemp("bundles")

    def make(seed: int = 0, observation: int = 3, action: int = 2, form: str = "pair", **changes: object) -> Path:
        path = root / f"{form}_{seed}_{observation}_{action}_{abs(hash(str(changes)))}"
        if not path.exists():
            path.mkdir()
            files = files_of(form, make_policy(Sizes(observation, action), seed=seed))
            for name, content in rehashed(files, **changes).items():
                (path / name).write_bytes(content)
        return path

    return make


@pytest.fixture(scope="session")
def bundle(make_bundle: Callable[..., Path]) -> Path:
    """3 observations, 2 actions (−1 to 2 and −2 to 2), ω from −1 to 4 with 0.5 by default."""
    return make_bundle()


@pytest.fixture(scope="session")
def deterministic_bundle(make_bundle: Callable[..., Path]) -> Path:
    """The same observations, actions and bounds; one action for an observation, no ω."""
    return make_bundle(form="deterministic")


@pytest.fixture(scope="session")
def diffusion_bundle(make_bundle: Callable[..., Path]) -> Path:
    """The same observations, actions and bounds; candidates of a diffusion model, no ω."""
    return make_bundle(form="diffusion")


@pytest.fixture(scope="module")
def ros() -> Iterator[None]:
    """The context that nodes are made in."""
    import rclpy

    rclpy.init()
    yield
    rclpy.try_shutdown()


@pytest.fixture
def contract(tmp_path: Path) -> Path:
    """Of the robot of ``graph``."""
    from graph import CONTRACT

    path = tmp_path / "contract.yaml"
    path.write_text(CONTRACT)
    return path


@pytest.fixture
def patient_contract(contract: Path) -> Path:
    """For tests that want every command: a machine that stands still for a second makes nothing stale or late."""
    text = contract.read_text()
    contract.write_text(
        text.replace("max_age_s: 0.6", "max_age_s: 20.0").replace("deadline_s: 1.0", "deadline_s: 10.0")
    )
    return contract
