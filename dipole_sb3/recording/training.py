"""Records an agent's experience while it learns: from its first, random steps to its last, good ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from dipole_sb3.common.intervals import mean_interval
from dipole_sb3.common.progress import progress_bar
from dipole_sb3.recording.agents import algorithm_class
from dipole_sb3.recording.noise import action_deviation
from dipole_sb3.recording.recording_files import Recording, action_bounds, returns_of, today_and_versions

RECORDERS = ("crossq", "ddpg", "sac", "td3", "tqc")
"""Agents whose learning can be recorded: those with a replay buffer."""


def record_training(
    algo: str = "tqc",
    env_id: str = "Reacher-v5",
    steps: int = 10_000,
    seed: int = 0,
    net_arch: Sequence[int] = (128, 128),
    *,
    noise: float | Sequence[float] = 0.0,
    evaluation_episodes: int = 50,
    evaluation_seed: int = 0,
    progress: bool = False,
) -> Recording:
    """Trains an agent in an environment from scratch, on the CPU, and records every transition.

    The recording is the same for the same seed, versions and machine. The agent uses its library's default
    hyperparameters, except for the networks' widths and the noise. After training, its deterministic policy is
    evaluated; episode i of the evaluation starts from ``reset(seed=evaluation_seed + i)``.

    :param algo: the agent, one of :data:`RECORDERS`.
    :param env_id: Gymnasium id of an environment with Box observations and actions.
    :param steps: number of environment steps, and so of transitions, ≥ 1.
    :param seed: seed of the agent and the environment.
    :param net_arch: hidden widths of the agent's networks.
    :param noise: standard deviation of Gaussian noise on the agent's actions, in their own units; one number, or one
        per action. For DDPG and TD3 it is the only exploration.
    :param evaluation_episodes: ≥ 2.
    :param evaluation_seed: seed of the first evaluation episode.
    :param progress: show a progress bar; where there is no terminal, a line a minute.
    :return: float32 arrays, actions in the environment's units, and the provenance as a dictionary for JSON.
    :raises ValueError: an unknown agent, fewer than 1 step, or spaces that are not Box.
    :raises ImportError: the agent's package is not installed.
    """
    if algo not in RECORDERS:
        raise ValueError(f"recording how {algo!r} learns is not offered; expected one of {', '.join(RECORDERS)}")
    if steps < 1:
        raise ValueError(f"steps is {steps}; expected at least 1")
    if evaluation_episodes < 2:
        raise ValueError(f"evaluation_episodes is {evaluation_episodes}; expected at least 2, for an interval")
    algorithm: Any = algorithm_class(algo)

    environment = gymnasium.make(env_id)
    _require_box(env_id, "observation", environment.observation_space)
    action_space = _require_box(env_id, "action", environment.action_space)
    deviation = action_deviation(action_space, noise)
    half_range = (action_space.high - action_space.low) / 2
    agent = algorithm(
        "MlpPolicy",
        environment,
        buffer_size=steps,
        # SB3 adds the noise to actions scaled to [−1, 1].
        action_noise=NormalActionNoise(np.zeros_like(half_range), deviation / half_range) if deviation.any() else None,
        seed=seed,
        device="cpu",
        policy_kwargs={"net_arch": list(net_arch)},
    )
    with progress_bar(progress, total=steps, desc="recording", unit=" steps") as bar:

        def count(*_: Any) -> bool:
            bar.update(agent.n_envs)
            return True

        agent.learn(steps, callback=count)
    returns = mean_interval(_evaluate(agent, env_id, evaluation_episodes, evaluation_seed))

    arrays = _transitions(agent)
    provenance = {
        "env_id": env_id,
        "algorithm": algo,
        "steps": steps,
        "seed": seed,
        "hyperparameters": _hyperparameters(agent, net_arch),
        **({"noise": np.asarray(noise).tolist()} if deviation.any() else {}),
        **action_bounds(agent.action_space),
        **today_and_versions(),
        **returns_of(_episode_returns(agent)),
        "agent_evaluation_episodes": evaluation_episodes,
        "agent_evaluation_seed": evaluation_seed,
        **{f"agent_return_{key}": round(value, 3) for key, value in returns._asdict().items()},
    }
    return Recording(arrays, provenance)


def _require_box(env_id: str, kind: str, space: gymnasium.spaces.Space[Any]) -> gymnasium.spaces.Box:
    if not isinstance(space, gymnasium.spaces.Box):
        raise ValueError(f"{env_id}: its {kind} space is {space}; expected a Box")
    return space


def _transitions(agent: OffPolicyAlgorithm) -> dict[str, np.ndarray]:
    """The agent's whole replay buffer, oldest first, as float32 arrays in the environment's units."""
    buffer = agent.replay_buffer
    assert isinstance(buffer, ReplayBuffer)
    rows = slice(0, buffer.size())
    # SB3's buffer has the true final observations; its dones include time limits, which timeouts marks.
    dones, timeouts = buffer.dones[rows, 0], buffer.timeouts[rows, 0]
    terminals = dones.copy()
    terminals[-1] = 1.0  # the recording ends here, even if the episode does not: no row follows this one
    arrays = {
        "observations": buffer.observations[rows, 0],
        "actions": agent.policy.unscale_action(buffer.actions[rows, 0]),
        "next_observations": buffer.next_observations[rows, 0],
        "rewards": buffer.rewards[rows, 0],
        "masks": 1.0 - dones * (1.0 - timeouts),
        "terminals": terminals,
    }
    return {key: np.ascontiguousarray(array, np.float32) for key, array in arrays.items()}


def _evaluate(agent: OffPolicyAlgorithm, env_id: str, episodes: int, seed: int) -> list[float]:
    environment = gymnasium.make(env_id)
    returns = [0.0] * episodes
    for episode in range(episodes):
        observation, _ = environment.reset(seed=seed + episode)
        ended = False
        while not ended:
            action, _ = agent.predict(observation, deterministic=True)
            observation, reward, terminated, truncated, _ = environment.step(action)
            returns[episode] += float(reward)
            ended = terminated or truncated
    environment.close()
    return returns


def _episode_returns(agent: OffPolicyAlgorithm) -> list[float]:
    """Of the whole episodes in the replay buffer; the last one may have been cut off."""
    buffer = agent.replay_buffer
    assert isinstance(buffer, ReplayBuffer)
    rows = slice(0, buffer.size())
    ends = np.flatnonzero(buffer.dones[rows, 0]) + 1
    cumulative = np.concatenate([[0.0], np.cumsum(buffer.rewards[rows, 0], dtype=np.float64)])
    returns: list[float] = np.diff(cumulative[[0, *ends]]).tolist()
    return returns


def _hyperparameters(agent: OffPolicyAlgorithm, net_arch: Sequence[int]) -> dict[str, Any]:
    return {
        "net_arch": list(net_arch),
        "learning_rate": agent.learning_rate,
        "learning_starts": agent.learning_starts,
        "batch_size": agent.batch_size,
        "tau": agent.tau,
        "gamma": agent.gamma,
        "others": "the library's defaults",
    }
