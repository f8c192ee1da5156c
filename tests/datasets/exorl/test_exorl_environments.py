"""ExORL's tasks as environments: SB3's and Gymnasium's own checks, and the layout of the published data."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
import pytest
from exorl_recordings import TASKS, open_environment
from gymnasium.utils.env_checker import check_env as check_gymnasium_env
from stable_baselines3.common.env_checker import check_env as check_sb3_env

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets import make_env
from dipole_sb3.datasets.exorl import tasks as exorl_tasks
from dipole_sb3.datasets.exorl.environments import ExorlEnv
from dipole_sb3.datasets.exorl.names import DOMAINS
from dipole_sb3.datasets.exorl.relabelling import Relabeller

PUBLISHED_WIDTHS = {"cheetah": (17, 6, 18), "jaco": (42, 9, 18), "quadruped": (78, 12, 57), "walker": (24, 6, 18)}
"""Of an observation, an action and a state in ExORL's published files."""

LIMITS = {"cheetah": 1000, "jaco": 250, "quadruped": 1000, "walker": 1000}


@pytest.fixture(scope="module", params=TASKS, ids=map("-".join, TASKS))
def environment(request: pytest.FixtureRequest) -> Iterator[gymnasium.Env[Any, Any]]:
    opened = open_environment(*request.param)
    yield opened
    opened.close()


def domain_of(environment: gymnasium.Env[Any, Any]) -> str:
    assert environment.spec is not None
    return str(environment.spec.kwargs["domain"])


def test_every_task_is_registered_and_none_beside_them() -> None:
    found = {name for name in gymnasium.registry if name.startswith("exorl/")}
    assert found == {f"exorl/{domain}-{task}-v0" for domain, task in TASKS}
    assert len(TASKS) == 9


def test_environment_checks(environment: gymnasium.Env[Any, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # Values of a robot without bounds, as in dm_control and in the data.
        warnings.filterwarnings("ignore", message=".*Box observation space m(inimum|aximum) value is -?infinity.*")
        check_gymnasium_env(environment.unwrapped, skip_render_check=True)
        check_sb3_env(environment, skip_render_check=True)


def test_episodes_end_by_their_time_limit(environment: gymnasium.Env[Any, Any]) -> None:
    observation, _ = environment.reset(seed=0)
    environment.action_space.seed(0)
    total, steps, truncated = 0.0, 0, False
    while not truncated:
        observation, reward, terminated, truncated, _ = environment.step(environment.action_space.sample())
        assert not terminated
        assert 0 <= reward <= 1
        assert observation.dtype == np.float32
        total, steps = total + float(reward), steps + 1
    assert steps == LIMITS[domain_of(environment)]
    assert 0 < total <= steps


def test_widths_are_those_of_the_published_files(environment: gymnasium.Env[Any, Any]) -> None:
    physics = environment.unwrapped.physics  # type: ignore[attr-defined]
    found = (*environment.observation_space.shape, *environment.action_space.shape, len(physics.get_state()))  # type: ignore[misc]
    assert found == PUBLISHED_WIDTHS[domain_of(environment)]


@pytest.mark.parametrize(("domain", "task"), [("walker", "walk"), ("jaco", "reach-top-left")])
def test_seeds(domain: str, task: str) -> None:
    """The same seed gives the same episode; without a seed, every episode starts elsewhere."""
    one, other = open_environment(domain, task), open_environment(domain, task)
    action = np.full(one.action_space.shape, 0.5, np.float32)  # type: ignore[arg-type]
    for environment in (one, other):
        environment.reset(seed=1)
        environment.step(action)
    first, second = one.reset(seed=7)[0], other.reset(seed=7)[0]
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(one.step(action)[0], other.step(action)[0])
    following = one.reset()[0]
    assert not np.array_equal(first, following)
    np.testing.assert_array_equal(following, other.reset()[0])
    assert not np.array_equal(first, one.reset(seed=8)[0])


def test_observations_keep_the_order_of_the_data() -> None:
    """Sorted by name, as Gymnasium flattens dictionaries, the walker's height would come first."""
    environment = open_environment("walker", "walk")
    observation, _ = environment.reset(seed=3)
    physics = environment.unwrapped.physics  # type: ignore[attr-defined]
    np.testing.assert_array_equal(observation[:14], physics.orientations().astype(np.float32))
    assert observation[14] == np.float32(physics.torso_height())
    np.testing.assert_array_equal(observation[15:], physics.velocity().astype(np.float32))


def test_actions_are_scaled_to_the_actuators() -> None:
    environment = open_environment("quadruped", "walk")
    environment.reset(seed=0)
    for action, expected in ((1.0, (1.0, 1.1, 0.8)), (-1.0, (-1.0, -1.0, -0.8)), (0.0, (0.0, 0.05, 0.0))):
        environment.step(np.full(12, action, np.float32))
        control = environment.unwrapped.physics.control()  # type: ignore[attr-defined]
        np.testing.assert_allclose(control.reshape(4, 3), np.tile(expected, (4, 1)), atol=1e-12)


def test_the_target_of_jaco_does_not_move() -> None:
    """Not between episodes either; it lies on the table, at the corners that ExORL names."""
    targets = {task: Relabeller("jaco", task)._environment for task in DOMAINS["jaco"].tasks}
    for task, x in (("reach-top-left", -0.09), ("reach-top-right", 0.09)):
        environment = targets[task]
        for _ in range(2):
            environment.reset()
            place = environment.physics.named.data.site_xpos["target_site"]
            np.testing.assert_array_equal(place, [x, 0.09, 0.001])


def test_names_of_data_give_their_environment() -> None:
    environment = make_env("exorl/cheetah/proto/run_backward", max_episode_steps=3)
    assert environment.spec is not None
    assert (environment.spec.id, environment.spec.max_episode_steps) == ("exorl/cheetah-run-backward-v0", 3)
    with pytest.raises(DatasetError, match="the domain walker has no task fly; expected run, stand or walk"):
        make_env("exorl/walker/rnd/fly")
    with pytest.raises(gymnasium.error.NameNotFound):
        make_env("exorl/walker-fly-v0")


def test_dm_control_says_nothing_that_users_cannot_change(caplog: pytest.LogCaptureFixture) -> None:
    open_environment("cheetah", "run-backward")
    arm = open_environment("jaco", "reach-top-left")
    for seed in range(10):
        arm.reset(seed=seed)
    assert caplog.messages == []


def test_unknown_render_mode() -> None:
    with pytest.raises(ValueError, match=r"render_mode is 'human'; expected None or 'rgb_array'"):
        ExorlEnv("walker", "walk", render_mode="human")


def test_versions_that_do_not_fit_together_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """As dm_control 1.0.50 fails on MuJoCo 4, which cannot be installed beside the MuJoCo of the other tests."""

    def fail(*_: Any) -> None:
        raise AttributeError("'MjModel' object has no attribute 'flex_vertedge'")

    monkeypatch.setattr(exorl_tasks.suite, "load", fail)
    with pytest.raises(ImportError, match=r"dm_control [\d.]+ does not work with mujoco [\d.]+ \('MjModel'.*\[exorl\]"):
        open_environment("walker", "walk")


_RENDER = """
import gymnasium, numpy
for name in ("walker-walk", "jaco-reach-top-left"):
    environment = gymnasium.make(f"dipole_sb3:exorl/{name}-v0", render_mode="rgb_array", width=64, height=48)
    environment.reset(seed=0)
    image = environment.render()
    assert image.shape == (48, 64, 3) and image.dtype == numpy.uint8 and image.std() > 1, image.shape
"""


@pytest.mark.parametrize("backend", ["egl", "osmesa"])
def test_rendering(backend: str) -> None:
    """In a process of its own: this one has been told to render nothing."""
    probe = f"import os; os.environ['MUJOCO_GL'] = {backend!r}\n"
    works = probe + "from dm_control._render import Renderer; Renderer(8, 8)"
    if subprocess.run([sys.executable, "-c", works], capture_output=True).returncode:
        pytest.skip(f"no OpenGL by {backend} here")
    finished = subprocess.run([sys.executable, "-c", probe + _RENDER], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
