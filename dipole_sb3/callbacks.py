"""What SB3's callbacks need while training without stepping an environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import ProgressBarCallback
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn


class TimestepProgressBar(ProgressBarCallback):
    """SB3's progress bar, moved by timesteps.

    SB3's own moves by the number of environments at every call, which overshoots where a timestep is one update.
    """

    _shown: int = 0

    def _on_step(self) -> bool:
        self.pbar.update(self.model.num_timesteps - self._shown)
        self._shown = self.model.num_timesteps
        return True

    def _on_training_start(self) -> None:
        self._shown = self.model.num_timesteps
        super()._on_training_start()


class RecordedSpaces(VecEnv):
    """Stands where callbacks look for the training environment while there is none: spaces, and nothing to step.

    Without it EvalCallback and others fail on ``training_env`` although they only ask for its type and size.
    """

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.render_mode = None
        super().__init__(1, observation_space, action_space)

    def _refuse(self) -> RuntimeError:
        return RuntimeError("this model trains on recorded data without an environment: pass env= to step one")

    def reset(self) -> VecEnvObs:
        raise self._refuse()

    def step_async(self, actions: np.ndarray) -> None:
        raise self._refuse()

    def step_wait(self) -> VecEnvStepReturn:
        raise self._refuse()

    def close(self) -> None:
        return

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        if attr_name == "render_mode":
            return [None]
        raise self._refuse()

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        raise self._refuse()

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        raise self._refuse()

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        return [False]

    def get_images(self) -> Sequence[np.ndarray | None]:
        raise self._refuse()
