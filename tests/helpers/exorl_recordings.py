"""ExORL's published format, recorded here: episodes of real dm_control physics with the rewards of the environment."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from dipole_sb3.datasets.exorl.names import DOMAINS, environment_id

TASKS = [(name, task) for name, domain in DOMAINS.items() for task in domain.tasks]
"""All nine."""

STEPS = 25

Episodes = list[dict[str, np.ndarray]]


def open_environment(domain: str, task: str) -> gymnasium.Env[Any, Any]:
    return gymnasium.make(environment_id(domain, task))


def record_episode(
    environment: gymnasium.Env[Any, Any], seed: int, steps: int = STEPS, *, smooth: bool = False
) -> dict[str, np.ndarray]:
    """An episode as ExORL writes it: row 0 holds the first observation, with an action and a reward of zeros."""
    observation = _reset(environment, seed)
    space = environment.action_space
    assert isinstance(space, gymnasium.spaces.Box)
    generator = np.random.default_rng(seed)
    phase, speed = generator.uniform(0, 2 * np.pi, space.shape), generator.uniform(0.05, 0.3, space.shape)
    physics = environment.unwrapped.physics  # type: ignore[attr-defined]
    rows = [(observation, np.zeros(space.shape), 0.0, physics.get_state())]
    for step in range(steps):
        action = np.sin(phase + speed * step) if smooth else generator.uniform(-1, 1, space.shape)
        action = action.astype(np.float32)
        observation, reward, *_ = environment.step(action)
        rows.append((observation, action, float(reward), physics.get_state()))
    columns = [np.stack([np.asarray(row[column]) for row in rows]) for column in range(4)]
    return {
        "observation": columns[0].astype(np.float32),
        "action": columns[1].astype(np.float32),
        "reward": columns[2].astype(np.float32)[:, None],
        "discount": np.ones((steps + 1, 1), np.float32),
        "physics": columns[3],
    }


def _reset(environment: gymnasium.Env[Any, Any], seed: int) -> Any:
    """Starts an episode; the arm's next to its target, as rewards are all but zero elsewhere."""
    observation, _ = environment.reset(seed=seed)
    if "jaco" in environment.spec.id:  # type: ignore[union-attr]
        attempts = iter(range(1000 * seed, 1000 * (seed + 1)))
        while np.linalg.norm(observation[30:33] - [0, 0.09, 0]) > 0.15:
            observation, _ = environment.reset(seed=next(attempts))
    return observation


def write_episodes(folder: Path, episodes: Iterable[dict[str, np.ndarray]]) -> list[Path]:
    """Writes episodes under the names that ExORL gives them, into ``buffer`` of a recording's folder."""
    (folder / "buffer").mkdir(parents=True, exist_ok=True)
    paths = []
    for index, episode in enumerate(episodes):
        paths.append(folder / "buffer" / f"episode_{index:06d}_{len(episode['observation']) - 1}.npz")
        np.savez_compressed(paths[-1], **episode)
    return paths


def record(folder: Path, domain: str, task: str, episodes: int = 2) -> Episodes:
    """Writes a recording, half of it with random and half with smooth actions; lengths differ. Returns its episodes."""
    environment = open_environment(domain, task)
    recorded = [
        record_episode(environment, seed=index, steps=STEPS + index, smooth=index % 2 == 1) for index in range(episodes)
    ]
    environment.close()
    write_episodes(folder, recorded)
    return recorded


def transitions(episodes: Iterable[dict[str, np.ndarray]], key: str) -> np.ndarray:
    """Rows 1 to T of every episode, joined."""
    return np.concatenate([episode[key][1:] for episode in episodes])
