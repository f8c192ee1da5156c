"""ExORL's tasks as Gymnasium environments."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from dipole_sb3.datasets.exorl.tasks import flat_observation, make_environment

_CAMERAS = {"quadruped": 2}
"""Cameras that follow the robot closely, where that is not a domain's first."""


class ExorlEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """One of ExORL's tasks, as its data sees it.

    Observations are float32 vectors in the layout of ExORL's episodes, actions lie in [−1, 1], every action acts for
    one step, rewards lie in [0, 1]. No task ends by itself: ``gymnasium.make("exorl/walker-walk-v0")`` adds the time
    limit, 1,000 steps (Jaco: 250).

    :param domain: a key of :data:`dipole_sb3.datasets.exorl.names.DOMAINS`.
    :param task: one of its tasks.
    :param render_mode: None or ``"rgb_array"``, which needs OpenGL.
    :param width: of a rendered image, in pixels.
    :param height: of a rendered image, in pixels.
    :raises ValueError: another render mode.
    :raises ImportError: dm_control is not installed, or does not work with the installed mujoco.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self, domain: str, task: str, render_mode: str | None = None, width: int = 480, height: int = 480
    ) -> None:
        if render_mode not in (None, "rgb_array"):
            raise ValueError(f"render_mode is {render_mode!r}; expected None or 'rgb_array'")
        self._random = np.random.RandomState()
        self._environment = make_environment(domain, task, self._random)
        first = flat_observation(self._environment.reset().observation)
        self.observation_space = spaces.Box(-np.inf, np.inf, first.shape, np.float32)
        self.action_space = spaces.Box(-1.0, 1.0, self._environment.action_spec().shape, np.float32)
        self.render_mode = render_mode
        self.metadata = {**self.metadata, "render_fps": round(1 / self._environment.control_timestep())}
        self._rendering = {"height": height, "width": width, "camera_id": _CAMERAS.get(domain, 0)}

    @property
    def physics(self) -> Any:
        """dm_control's physics, whose ``get_state()`` ExORL records; Jaco has another one in every episode."""
        return self._environment.physics

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._random.seed(self.np_random.integers(2**32, size=4))
        return flat_observation(self._environment.reset().observation), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        step = self._environment.step(np.asarray(action, np.float64))
        return flat_observation(step.observation), float(step.reward), False, False, {}

    def render(self) -> NDArray[np.uint8] | None:
        if self.render_mode is None:
            return None
        image: NDArray[np.uint8] = self.physics.render(**self._rendering)
        return image
