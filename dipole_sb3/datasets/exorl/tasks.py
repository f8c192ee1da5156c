"""ExORL's nine tasks on dm_control: seven of its own, three of ExORL's that it does not have."""

from __future__ import annotations

import logging
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from dm_control import composer, suite
from dm_control.composer.observation.observable import Observable
from dm_control.manipulation import reach
from dm_control.manipulation.shared import arenas, constants, observations, robots, workspaces
from dm_control.rl import control
from dm_control.suite import cheetah
from dm_control.suite.wrappers import action_scale
from dm_control.utils import rewards
from numpy.typing import NDArray

_IDLE_REMARKS = (
    # dm_control's own cheetah uses an attribute that MuJoCo calls deprecated.
    "'settotalmass' is deprecated",
    # Where Jaco's arm does not reach the place that was drawn for its hand; another one is drawn.
    "Failed to converge after",
)
logging.getLogger("absl").addFilter(lambda record: not any(text in record.getMessage() for text in _IDLE_REMARKS))

RUN_SPEED = 10.0
"""Speed, in metres per second, from which a cheetah's reward is 1; from there it falls to 0 at a standstill."""

REACH_TARGETS = {"reach-top-left": (-0.09, 0.09, 0.001), "reach-top-right": (0.09, 0.09, 0.001)}
"""Where on the table, in metres, Jaco's hand is wanted."""


def make_environment(domain: str, task: str, random: np.random.RandomState) -> Any:
    """A task as a dm_control environment without a time limit, with actions in [−1, 1] as ExORL records them.

    :param domain: a key of :data:`dipole_sb3.datasets.exorl.names.DOMAINS`.
    :param task: one of its tasks.
    :param random: where initial states are drawn from; seeding it anew reseeds the environment.
    :raises ImportError: the installed dm_control and mujoco do not work together.
    """
    try:
        if domain == "jaco":
            environment = composer.Environment(ReachCorner(REACH_TARGETS[task]), random_state=random)
        elif (domain, task) == ("cheetah", "run-backward"):
            physics = cheetah.Physics.from_xml_string(*cheetah.get_model_and_assets())
            environment = control.Environment(physics, CheetahBackward(random))
        else:
            environment = suite.load(domain, task, {"random": random, "time_limit": float("inf")})
    except AttributeError as error:  # dm_control asks MuJoCo's structures for fields that newer versions do not have
        raise ImportError(
            f"dm_control {version('dm_control')} does not work with mujoco {version('mujoco')} ({error}); versions "
            "that do come with pip install 'dipole-sb3[exorl]'"
        ) from error
    return action_scale.Wrapper(environment, minimum=-1.0, maximum=1.0)


def flat_observation(observation: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The parts of an observation, one after the other in dm_control's own order, as ExORL records them."""
    return np.concatenate([np.ravel(part) for part in observation.values()]).astype(np.float32)


class CheetahBackward(cheetah.Cheetah):  # type: ignore[misc]
    """The cheetah, rewarded for running backwards as dm_control's is for running forwards."""

    def get_reward(self, physics: Any) -> float:
        return float(
            rewards.tolerance(
                -physics.speed(),
                bounds=(RUN_SPEED, float("inf")),
                margin=RUN_SPEED,
                value_at_margin=0,
                sigmoid="linear",
            )
        )


class ReachCorner(reach.Reach):  # type: ignore[misc]
    """dm_control's task of reaching a site, with a target that never moves and is no part of the observation.

    :param target: its position (x, y, z) in metres.
    """

    def __init__(self, target: tuple[float, float, float]) -> None:
        features = observations.PERFECT_FEATURES
        super().__init__(
            arena=arenas.Standard(),
            arm=robots.make_arm(features),
            hand=robots.make_hand(features),
            prop=None,
            obs_settings=features,
            workspace=_Workspace(
                target_bbox=workspaces.BoundingBox(target, target),
                tcp_bbox=workspaces.BoundingBox((-0.2, -0.2, 0.02), (0.2, 0.2, 0.4)),
                arm_offset=robots.ARM_OFFSET,
            ),
            control_timestep=constants.CONTROL_TIMESTEP,
        )

    @property
    def task_observables(self) -> dict[str, Observable]:
        return {name: part for name, part in super().task_observables.items() if name != "target_position"}


class _Workspace(NamedTuple):
    """Where the target and, when an episode starts, the hand are placed; where the arm stands."""

    target_bbox: workspaces.BoundingBox
    tcp_bbox: workspaces.BoundingBox
    arm_offset: tuple[float, float, float]
