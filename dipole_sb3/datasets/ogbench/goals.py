"""Goals of OGBench's environments in Dict observations, as Gymnasium and Stable-Baselines3 expect them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from dipole_sb3.common.checks import on_one_line
from dipole_sb3.datasets.ogbench import archives

_ARM = 19
"""Numbers about the robot arm; they come first in the observations of ``cube``, ``scene`` and ``puzzle``."""
_OF_CUBE = 9
"""Numbers about a cube in an observation: x, y, z, quaternion, cosine and sine of the yaw."""
_OF_BUTTON = 4
"""Numbers about a button: whether it is in state 0, whether in state 1, position, velocity."""
_CENTER, _XYZ_SCALE, _DRAWER_SCALE, _WINDOW_SCALE = np.array([0.425, 0.0, 0.0]), 10.0, 18.0, 15.0
"""How ogbench's observations, and its "oracle" goals, hold positions in metres."""
_NEAR = 0.04
"""Metres from a target at which a cube, drawer or window is there; written into ogbench's code."""


@dataclass(frozen=True)
class GoalRule:
    """What the goals of an environment are, and which goals fulfil which.

    A goal is what ogbench calls the oracle representation: the x, y of the agent (of the ball in ``antsoccer``) in
    mazes, else cubes, buttons, drawer and window, scaled as in observations. Numbers that are judged together
    (x, y, z of a cube) are a part.

    :param columns: of an observation, which make the achieved goal; int64 [goal].
    :param starts: of the parts among them, in ascending order, the first 0; int64 [parts].
    :param tolerances: greatest distance at which a part is fulfilled, in units of the observation; [parts].
    """

    columns: NDArray[np.int64]
    starts: NDArray[np.int64]
    tolerances: NDArray[np.float64]

    def achieved(self, observations: NDArray[Any]) -> NDArray[np.float32]:
        """Of observations [..., observation], the goals [..., goal]."""
        return np.asarray(observations[..., self.columns], np.float32)

    def rewards(self, achieved: NDArray[Any], desired: NDArray[Any]) -> NDArray[np.float32]:
        """0 where the goal is fulfilled, else −1; [...] for goals [..., goal]."""
        squares = np.square(np.asarray(achieved, np.float64) - np.asarray(desired, np.float64))
        distances = np.sqrt(np.add.reduceat(squares, self.starts, axis=-1))
        fulfilled = (distances <= self.tolerances).all(axis=-1)
        rewards: NDArray[np.float32] = np.asarray(fulfilled, np.float32) - np.float32(1)
        return rewards


def goal_rule(env: gymnasium.Env[Any, Any]) -> GoalRule:
    """The rule of success of an OGBench environment as one of goals.

    :param env: with observations of states.
    :raises ValueError: it is another environment, or its observations are pictures.
    """
    world: Any = env.unwrapped
    space = env.observation_space
    known = _is_maze(world) or hasattr(world, "_num_cubes") or hasattr(world, "_num_buttons")
    if not known or not isinstance(space, spaces.Box) or len(space.shape) != 1:
        raise ValueError(
            f"GoalConditioned: found {type(world).__name__} with observations {on_one_line(space)}, expected a maze, "
            "cube, scene or puzzle of OGBench with observations of states"
        )
    if _is_maze(world):
        # Where the teleporting maze has moved the agent, observation and success are those before.
        columns = np.array([15, 16] if _has_ball(world) else [0, 1])
        return GoalRule(columns, np.array([0]), np.array([world._goal_tol]))
    parts: list[tuple[int, int, float]] = []
    """First column, number of columns and tolerance of each part."""
    cubes, buttons = getattr(world, "_num_cubes", 0), getattr(world, "_num_buttons", 0)
    parts += [(_ARM + _OF_CUBE * cube, 3, _NEAR * _XYZ_SCALE) for cube in range(cubes)]
    first = _ARM + _OF_CUBE * cubes
    parts += [(first + _OF_BUTTON * button + 1, 1, 0.0) for button in range(buttons)]
    if hasattr(world, "_target_drawer_pos"):
        first += _OF_BUTTON * buttons
        parts += [(first, 1, _NEAR * _DRAWER_SCALE), (first + 2, 1, _NEAR * _WINDOW_SCALE)]
    columns = np.concatenate([np.arange(column, column + width) for column, width, _ in parts])
    starts = np.cumsum([0, *(width for _, width, _ in parts[:-1])])
    return GoalRule(columns, starts, np.array([tolerance for _, _, tolerance in parts]))


def _is_maze(world: Any) -> bool:
    return hasattr(world, "cur_goal_xy")


def _has_ball(world: Any) -> bool:
    return hasattr(world, "get_agent_ball_xy")


def _desired(world: Any) -> NDArray[np.float32]:
    """The goal by which the environment judges success, [goal].

    Not ``info["goal"]``: that is an observation after a few random steps at the goal.
    """
    if _is_maze(world):
        return np.array(world.cur_goal_xy, np.float32)
    parts: list[Any] = []
    if hasattr(world, "_num_cubes"):
        cubes = world._data.mocap_pos[world._cube_target_mocap_ids]
        parts.append(((cubes - _CENTER) * _XYZ_SCALE).reshape(-1))
    if hasattr(world, "_num_buttons"):
        parts.append(world._target_button_states)
    if hasattr(world, "_target_drawer_pos"):
        parts.append([world._target_drawer_pos * _DRAWER_SCALE, world._target_window_pos * _WINDOW_SCALE])
    return np.concatenate(parts).astype(np.float32)


def goal_space(observation: spaces.Box, rule: GoalRule) -> spaces.Dict:
    """Observations with goals; all float32."""
    assert observation.shape is not None
    unbounded = {
        "observation": observation.shape,
        "achieved_goal": rule.columns.shape,
        "desired_goal": rule.columns.shape,
    }
    return spaces.Dict({key: spaces.Box(-np.inf, np.inf, shape, np.float32) for key, shape in unbounded.items()})


def with_goals(arrays: Mapping[str, NDArray[Any]], rule: GoalRule) -> dict[str, Any]:
    """Recorded transitions whose desired goal is the last one that their episode achieved, with the rewards for it.

    :param arrays: ``observations``, ``next_observations``, ``actions`` and ``terminals`` of whole episodes; they are
        not copied.
    :param rule: of their environment.
    :return: arrays for :meth:`OfflineReplayBuffer.from_arrays`; episodes end by time, so masks are 1.
    """
    ends = np.flatnonzero(arrays["terminals"])
    achieved = rule.achieved(arrays["next_observations"])
    desired = achieved[ends[np.searchsorted(ends, np.arange(len(achieved)))]]
    rewards = np.empty(len(achieved), np.float32)
    for start in range(0, len(achieved), archives.ROWS_AT_A_TIME):
        part = slice(start, start + archives.ROWS_AT_A_TIME)
        rewards[part] = rule.rewards(achieved[part], desired[part])
    goals = {"desired_goal": desired}
    states, following = arrays["observations"], arrays["next_observations"]
    return {
        "observations": {"observation": states, "achieved_goal": rule.achieved(states), **goals},
        "next_observations": {"observation": following, "achieved_goal": achieved, **goals},
        "actions": arrays["actions"],
        "rewards": rewards,
        "terminals": arrays["terminals"],
        "masks": np.ones(len(rewards), np.float32),
    }


class GoalConditioned(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An OGBench environment with goals among its observations: ``observation``, ``achieved_goal``, ``desired_goal``.

    Rewards are those of :meth:`compute_reward`: 0 in a step that fulfils the goal, else −1. ``info["success"]`` and
    the end of the episode stay ogbench's; they agree with the reward up to the rounding of goals to float32.
    ``info["is_success"]`` is the same under Stable-Baselines3's name. ``reset(options={"task_id": …})`` chooses one of
    the five tasks of evaluation, as in ogbench; by default one is drawn.

    :param env: of OGBench, made with goals (``cube-single-v0``), with observations of states.
    :raises ValueError: it is another one.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self.rule = goal_rule(env)
        assert isinstance(env.observation_space, spaces.Box)
        self.observation_space = goal_space(env.observation_space, self.rule)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, NDArray[np.float32]], dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._with_goals(observation), info

    def step(self, action: Any) -> tuple[dict[str, NDArray[np.float32]], float, bool, bool, dict[str, Any]]:
        observation, _, terminated, truncated, info = self.env.step(action)
        seen = self._with_goals(observation)
        reward = float(self.compute_reward(seen["achieved_goal"], seen["desired_goal"], info))
        return seen, reward, bool(terminated), bool(truncated), {**info, "is_success": bool(info["success"])}

    def compute_reward(self, achieved_goal: NDArray[Any], desired_goal: NDArray[Any], info: Any) -> Any:
        """0 where the achieved goal fulfils the desired one, else −1.

        :param achieved_goal: [goal], or [n, goal].
        :param desired_goal: likewise.
        :param info: not looked at.
        :return: a number, or float32 [n].
        """
        return self.rule.rewards(achieved_goal, desired_goal)

    def _with_goals(self, observation: NDArray[Any]) -> dict[str, NDArray[np.float32]]:
        state = np.asarray(observation, np.float32)
        return {
            "observation": state,
            "achieved_goal": self.rule.achieved(state),
            "desired_goal": _desired(self.env.unwrapped),
        }
