"""Episodes that can be continued after an interruption: they are replayed from seed and actions, and compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.utils import RecordConstructorArgs
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize, VecTransposeImage

from dipole_sb3.common.random_state import globally_seeded

_REPLAYABLE_WRAPPERS = (VecNormalize, VecTransposeImage)
"""Wrappers of a VecEnv that hold no state of a running episode, or whose state is saved with the run."""


class ReplayableEpisodes(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Keeps the seed and actions of the running episode, so that an interrupted run can replay it to the same point.

    Every episode has its own seed: the first one is given to ``reset``, the others come from a sequence that follows
    from it. The start of an episode therefore does not depend on where the environment keeps its random numbers. Use it
    for simulators only: resuming a run repeats the actions of the interrupted episode. Put it around all wrappers that
    change actions. For several environments: ``make_vec_env(id, n_envs=8, wrapper_class=ReplayableEpisodes)``.

    :param env: any Gymnasium environment whose episodes are determined by their seed and actions.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        RecordConstructorArgs.__init__(self)
        gymnasium.Wrapper.__init__(self, env)
        self._seeds = np.random.default_rng()
        self._seed: int | None = None
        self._options: dict[str, Any] | None = None
        self._actions: list[np.ndarray] = []
        self._observation: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """As the environment's own; without a seed the episode gets the next one of the sequence."""
        if seed is not None:
            self._seeds = np.random.default_rng(seed)
        self._seed = int(self._seeds.integers(2**31)) if seed is None else seed
        self._options, self._actions = options, []
        # Some environments draw their start from global generators (OGBench's mazes): seed those, too.
        with globally_seeded(self._seed):
            self._observation, info = self.env.reset(seed=self._seed, options=options)
        return self._observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """As the environment's own."""
        self._actions.append(np.array(action))
        self._observation, reward, terminated, truncated, info = self.env.step(action)
        return self._observation, reward, terminated, truncated, info

    def episode_state(self) -> dict[str, Any]:
        """What is needed to return to this point: a mapping of numbers and arrays."""
        return {
            "seeds": self._seeds.bit_generator.state,
            "seed": self._seed,
            "options": self._options,
            "actions": np.array(self._actions),
            "observation": self._observation,
        }

    def set_episode_seeds(self, state: Mapping[str, Any]) -> None:
        """Sets the sequence of seeds for the following episodes, from :meth:`episode_state`."""
        self._seeds.bit_generator.state = dict(state["seeds"])

    def shows(self, observation: Any) -> bool:
        """Whether the last observation equals this one, bit for bit."""
        return _same(self._observation, observation)


def episode_states(env: VecEnv) -> list[dict[str, Any]] | None:
    """Every environment's :meth:`ReplayableEpisodes.episode_state`; None when episodes cannot be replayed."""
    return env.env_method("episode_state") if replayable(env) else None


def replayable(env: VecEnv) -> bool:
    """Whether every environment keeps its episode, and no wrapper around them holds more state of it."""
    while isinstance(env, VecEnvWrapper):
        if not isinstance(env, _REPLAYABLE_WRAPPERS):
            return False
        env = env.venv
    return all(env.env_is_wrapped(ReplayableEpisodes))


def continue_seeds(env: VecEnv, states: Sequence[Mapping[str, Any]]) -> None:
    """Continues every environment's sequence of seeds, from :func:`episode_states`."""
    for index, state in enumerate(states):
        env.env_method("set_episode_seeds", state, indices=[index])


def play_again(env: VecEnv, states: Sequence[Mapping[str, Any]]) -> str | None:
    """Replays every environment's episode to the point at which its state was taken.

    :param env: as many environments as states; they need not be new.
    :param states: from :func:`episode_states`.
    :return: None when every environment shows the same observation as then, else a phrase that says what differs.
    """
    for index, state in enumerate(states):
        env.env_method("reset", indices=[index], seed=state["seed"], options=state["options"])
        for action in state["actions"]:
            env.env_method("step", action, indices=[index])
        if not env.env_method("shows", state["observation"], indices=[index])[0]:
            return (
                f"environment {index} shows another observation after the seed and the {len(state['actions'])} actions "
                "of its episode"
            )
    continue_seeds(env, states)
    # Drop the seeds that the model's constructor set: the run used them when it began.
    env.unwrapped._reset_seeds()
    return None


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, Mapping):
        return isinstance(other, Mapping) and one.keys() == other.keys() and all(_same(one[k], other[k]) for k in one)
    return np.array_equal(np.asarray(one), np.asarray(other), equal_nan=np.asarray(one).dtype.kind == "f")
