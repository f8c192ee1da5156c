"""Gymnasium's two-joint Reacher, which knows its joints and sees its target only through a camera above it.

Training, a bundle's program and :mod:`dipole_policy.simulated_arm` draw the same pictures with it. It needs neither ROS
nor torch.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

ID = "CameraReacher-v0"
"""Its name for ``gymnasium.make``, after ``dipole_policy.camera_arm:``."""
SIZE = 64
"""Pixels of a side of the picture, unless another number is asked for."""
ARRIVED_M = 0.02
"""How near the fingertip must come, in metres."""
JOINTS = (0, 1, 2, 3, 6, 7)
"""What Reacher-v5's observation says of the joints: cosines and sines of both angles, and both velocities in rad/s."""


def make_reacher(size: int, max_episode_steps: int) -> gymnasium.Env[Any, Any]:
    """Reacher-v5, whose ``render`` gives the camera's picture, uint8 [size, size, 3].

    The target is drawn as the disc in which the fingertip has arrived; Reacher's own is two pixels wide.
    """
    above = {"distance": 0.6, "elevation": -90.0, "azimuth": 90.0, "lookat": np.zeros(3)}
    env: gymnasium.Env[Any, Any] = gymnasium.make(
        "Reacher-v5",
        max_episode_steps=max_episode_steps,
        render_mode="rgb_array",
        width=size,
        height=size,
        default_camera_config=above,
    )
    arm: Any = env.unwrapped
    arm.model.geom("target").size[0] = ARRIVED_M
    return env


class CameraReacher(gymnasium.ObservationWrapper[Any, Any, Any]):
    """Observations are a Dict of ``camera``, uint8 [size, size, 3], and ``joints``, float32 [6].

    :param env: a :func:`make_reacher`.
    :param size: pixels of a side.
    :param shown: of what ``render`` returns: the picture that was seen last, each pixel repeated.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], size: int, shown: int) -> None:
        super().__init__(env)
        joints = spaces.Box(-np.inf, np.inf, (len(JOINTS),), np.float32)
        camera = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = spaces.Dict({"camera": camera, "joints": joints})
        self._repeats = max(1, shown // size)

    def observation(self, observation: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
        """What is seen where Reacher-v5 observes these ten numbers now."""
        self._picture: NDArray[np.uint8] = np.asarray(self.env.render())
        return {"camera": self._picture, "joints": observation[list(JOINTS)].astype(np.float32)}

    def show(self, observation: NDArray[np.floating[Any]]) -> dict[str, NDArray[Any]]:
        """Moves arm and target to where an observation of Reacher-v5 has them.

        :param observation: [10].
        :return: what is seen there.
        """
        cosines, sines, target, velocities = np.split(np.asarray(observation[:8], np.float64), 4)
        arm: Any = self.unwrapped
        arm.set_state(np.concatenate([np.arctan2(sines, cosines), target]), np.concatenate([velocities, np.zeros(2)]))
        return self.observation(np.asarray(observation))

    def render(self) -> Any:
        """The picture that was seen last, uint8 [shown, shown, 3]."""
        return self._picture.repeat(self._repeats, axis=0).repeat(self._repeats, axis=1)


def make_camera_reacher(
    size: int = SIZE, render_mode: str | None = None, width: int = 0, height: int = 0
) -> CameraReacher:
    """The environment by its name.

    :param size: pixels of a side of the picture.
    :param render_mode: it always draws.
    :param width: pixels of what ``render`` returns, a multiple of ``size``.
    :param height: likewise.
    """
    # The limit is that of this environment's own registration.
    return CameraReacher(make_reacher(size, -1), size, max(width, height))


gymnasium.register(ID, entry_point=f"{__name__}:make_camera_reacher", max_episode_steps=50)
