"""Data recorded while an agent learns: every transition from its first, random steps to its last, good ones."""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import platform
import shlex
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata, resources
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common.files import replaced_when_complete
from dipole_sb3.common.intervals import mean_interval
from dipole_sb3.datasets import files
from dipole_sb3.recording.agents import algorithm_class

RECORDERS = ("crossq", "ddpg", "sac", "td3", "tqc")
"""Agents whose learning can be recorded: those that keep what they see in a replay buffer."""

DEMO_NAMES = ("reacher-tqc-10k",)
"""Data sets that ship inside the package."""


class Recording(NamedTuple):
    """Recorded transitions, in the keys of :func:`dipole_sb3.datasets.files.load`, and where they come from."""

    arrays: dict[str, np.ndarray]
    provenance: dict[str, Any]


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
    """Every transition of an agent that learns an environment from scratch, on the CPU.

    The same for the same seed, versions and machine. The agent runs at its library's default hyperparameters, apart
    from the networks' widths and the noise. When it has learned, its deterministic policy is evaluated; episode i of
    the evaluation starts from ``reset(seed=evaluation_seed + i)``.

    :param algo: the agent, one of :data:`RECORDERS`.
    :param env_id: Gymnasium id of an environment with Box observations and actions.
    :param steps: environment steps, and so transitions, ≥ 1.
    :param seed: of the agent and the environment.
    :param net_arch: hidden widths of the agent's networks.
    :param noise: standard deviation of Gaussian noise on the agent's actions, in their own units; a number, or one for
        each. DDPG and TD3 explore by it alone.
    :param evaluation_episodes: ≥ 2.
    :param evaluation_seed: of the first evaluation episode.
    :param progress: show a progress bar.
    :return: float32 arrays, actions in the environment's units, and the provenance as a JSON-ready dictionary.
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
        # SB3 adds it to actions that are scaled to [−1, 1].
        action_noise=NormalActionNoise(np.zeros_like(half_range), deviation / half_range) if deviation.any() else None,
        seed=seed,
        device="cpu",
        policy_kwargs={"net_arch": list(net_arch)},
    )
    agent.learn(steps, progress_bar=progress)
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
        "data_episodes": int(arrays["terminals"].sum()),
        "data_return_mean": _mean_episode_return(arrays),
        "agent_evaluation_episodes": evaluation_episodes,
        "agent_evaluation_seed": evaluation_seed,
        **{f"agent_return_{key}": round(value, 3) for key, value in returns._asdict().items()},
    }
    return Recording(arrays, provenance)


def action_deviation(space: gymnasium.spaces.Box, noise: float | Sequence[float]) -> np.ndarray:
    """Standard deviation of every action, of the action space's shape.

    :raises ValueError: not one number, nor one for each action, or not ≥ 0.
    """
    try:
        deviation = np.broadcast_to(np.asarray(noise, np.float64), space.shape)
    except ValueError as error:
        raise ValueError(f"noise is {noise}; expected one number, or one for each action of {space.shape}") from error
    if not (np.isfinite(deviation).all() and (deviation >= 0).all()):
        raise ValueError(f"noise is {noise}; expected standard deviations ≥ 0, in the units of the actions")
    return deviation


def action_bounds(space: gymnasium.spaces.Space[Any]) -> dict[str, list[float]]:
    """Metadata from which the actions' bounds are read again."""
    assert isinstance(space, gymnasium.spaces.Box)
    return {"action_low": space.low.tolist(), "action_high": space.high.tolist()}


def today_and_versions() -> dict[str, Any]:
    """The date (UTC), and the versions of what took part in a recording and is installed."""
    versions = {"python": platform.python_version()}
    for name in ("stable-baselines3", "sb3-contrib", "torch", "gymnasium", "mujoco", "numpy"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {"packages": versions, "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat()}


def require_output(path: str | os.PathLike[str]) -> None:
    """Refuses a place that could not be written, before minutes of recording.

    :raises ValueError: a path without the suffix .npz.
    :raises OSError: its folder cannot be made or written.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"{path}: recorded data is written as .npz; expected a file name with that suffix")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path.parent}: the folder cannot be written")


def write_recording(
    recording: Recording, path: str | os.PathLike[str], command: Sequence[str] = ()
) -> tuple[Path, Path]:
    """Writes the arrays as .npz and, beside it, the provenance (with the data's checksum) as .json.

    :param path: of the .npz file.
    :param command: the command line that made it, kept in the provenance.
    :return: both paths.
    :raises ValueError: a path without the suffix .npz.
    :raises OSError: the folder cannot be written; nothing half-written stays behind.
    """
    require_output(path)
    path = files.write_npz(path, recording.arrays)
    provenance = {
        **recording.provenance,
        **({"command": shlex.join(command)} if command else {}),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }
    beside = path.with_suffix(".json")
    with replaced_when_complete(beside) as file:
        file.write(f"{json.dumps(provenance, indent=2, ensure_ascii=False)}\n".encode())
    return path, beside


def load_demo(name: str, *, device: torch.device | str = "auto") -> OfflineReplayBuffer:
    """A recorded data set that ships inside the package.

    :param name: one of :data:`DEMO_NAMES`.
    :param device: where batches will be drawn.
    """
    with resources.as_file(resources.files("dipole_sb3") / "data") as folder:
        buffer = files.load(folder / f"{name}.npz", device=device)
    buffer.source = f"demo/{name}"
    return buffer


def _require_box(env_id: str, kind: str, space: gymnasium.spaces.Space[Any]) -> gymnasium.spaces.Box:
    if not isinstance(space, gymnasium.spaces.Box):
        raise ValueError(f"{env_id}: its {kind} space is {space}; expected a Box")
    return space


def _transitions(agent: OffPolicyAlgorithm) -> dict[str, np.ndarray]:
    """The agent's whole replay buffer, oldest first, as float32 arrays in the environment's units."""
    buffer = agent.replay_buffer
    assert isinstance(buffer, ReplayBuffer)
    rows = slice(0, buffer.size())
    # SB3 stores true final observations, and dones that include time limits, which timeouts tells apart.
    dones, timeouts = buffer.dones[rows, 0], buffer.timeouts[rows, 0]
    terminals = dones.copy()
    terminals[-1] = 1.0  # the recording ends here, if not the episode: nothing follows this row
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


def _mean_episode_return(arrays: dict[str, np.ndarray]) -> float:
    ends = np.flatnonzero(arrays["terminals"]) + 1
    cumulative = np.concatenate([[0.0], np.cumsum(arrays["rewards"], dtype=np.float64)])
    return round(float(cumulative[ends[-1]]) / len(ends), 3)


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
