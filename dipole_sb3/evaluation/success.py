"""Success on tasks whose environment does not report it."""

from __future__ import annotations

from typing import Any, SupportsFloat

import gymnasium


class SuccessFromInfo(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Reports ``info["is_success"]`` from a number that the environment reports at every step.

    Gymnasium's Reacher, for instance, reports minus the distance to its target, in metres:
    ``SuccessFromInfo(gymnasium.make("Reacher-v5"), info="reward_dist", least=-0.02)``. An evaluation counts the last
    step of an episode, so the arm has to be at its target when the time is over.

    :param env: an environment.
    :param info: the number's key in the info of every step.
    :param least: from this value on the step is a success.
    :raises ValueError: on the first step, if its info has no such key; the message lists those that it has.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], info: str, least: float) -> None:
        super().__init__(env)
        self._info, self._least = info, least

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._info not in info:
            raise ValueError(
                f"the environment's info has no {self._info!r}, which success is read from; found {', '.join(info)}"
            )
        return observation, reward, terminated, truncated, {**info, "is_success": bool(info[self._info] >= self._least)}
