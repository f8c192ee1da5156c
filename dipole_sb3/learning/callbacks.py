"""What SB3's callbacks need while training without stepping an environment."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

import gymnasium
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback, ProgressBarCallback


class HasIterations(Protocol):
    """What an IterationCallback needs from its model."""

    def at_iteration_ends(self, listener: Callable[[], bool]) -> None: ...


class IterationCallback(BaseCallback):
    """A callback that runs at the end of every iteration.

    What that is: :meth:`~dipole_sb3.learning.offline_algorithm.OfflineAlgorithm.at_iteration_ends`.
    """

    def _on_training_start(self) -> None:
        model: HasIterations = self.model  # type: ignore[assignment]
        model.at_iteration_ends(self._on_iteration_end)

    def _on_step(self) -> bool:
        return True

    @abstractmethod
    def _on_iteration_end(self) -> bool:
        """False ends learning."""


class TimestepProgressBar(ProgressBarCallback):
    """SB3's progress bar, advanced by timesteps.

    The original advances by the number of environments at every call, which overshoots when a timestep is one update.
    """

    _shown: int = 0
    _end: int = 0

    def _on_training_start(self) -> None:
        self._shown, self._end = self.model.num_timesteps, self.locals["total_timesteps"]
        super()._on_training_start()

    def _on_step(self) -> bool:
        # The last step of several environments may exceed the requested timesteps.
        reached = min(self.model.num_timesteps, self._end)
        self.pbar.update(reached - self._shown)
        self._shown = reached
        return True


class RecordedSpaces(gymnasium.Env[Any, Any]):
    """A placeholder for the training environment when there is none: it has spaces but cannot be stepped.

    Without it EvalCallback and others fail on ``training_env``, although they only ask for its type and size.
    """

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        self.observation_space = observation_space
        self.action_space = action_space

    def reset(self, **_: Any) -> Any:
        raise RuntimeError("this model trains on recorded data without an environment: pass env= to step one")

    def step(self, action: Any) -> Any:
        return self.reset()
