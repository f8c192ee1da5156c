"""Records what a trained model does in an environment, as data to learn from."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecNormalize,
    VecTransposeImage,
    unwrap_vec_normalize,
)

from dipole_sb3.buffers import image_layout
from dipole_sb3.buffers.normalization import normalized
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common import checks
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.progress import progress_bar
from dipole_sb3.common.random_state import seeded_torch
from dipole_sb3.datasets import storage
from dipole_sb3.datasets.environments import environment_facts
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.recording import recording_files
from dipole_sb3.recording.noise import action_deviation

Row = dict[str, Any]
Transform = Callable[[Any], Any]

_ROWS_AT_A_TIME = 4096


def record_dataset(
    model: BaseAlgorithm,
    env: GymEnv | str,
    steps: int,
    path: str | os.PathLike[str] | None = None,
    *,
    deterministic: bool = False,
    noise: float | Sequence[float] = 0.0,
    epsilon: float = 0.0,
    n_envs: int = 1,
    seed: int = 0,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    device: torch.device | str = "auto",
    progress: bool = False,
) -> OfflineReplayBuffer:
    """Records transitions of a trained model of Stable-Baselines3, sb3-contrib or this package, ready for training.

    Observations and rewards are the environment's own. A model that was trained with VecNormalize receives normalised
    observations: by the VecNormalize given as ``env``, else by the model's own; their statistics do not change. Actions
    are recorded as executed: clipped to their bounds, with the noise that was added. The true last observation of every
    episode is kept, and time limits are distinguished from terminations. The state of torch's global generators is the
    same after the recording as before it.

    :param model: trained or untrained; it is not changed. Recurrent models keep their state during an episode.
    :param env: an environment, a VecEnv, or a name for :func:`dipole_sb3.datasets.make_env`.
    :param steps: number of transitions over all environments, ≥ 1. Unfinished episodes are cut at the end.
    :param path: where to write the data: an .npz file (with its provenance beside it, as .json), or else a folder in
        this project's own format, to which episodes are written during the recording. None: keep in memory only.
    :param deterministic: use the model's most likely action instead of a drawn one.
    :param noise: standard deviation of Gaussian noise on the actions, in their own units; one number, or one per
        action.
    :param epsilon: probability, in [0, 1], that an action is replaced by a uniformly random one.
    :param n_envs: number of environments to make if ``env`` is a name.
    :param seed: seed of the environments (as SB3's ``seed()``), the model's draws, and the noise.
    :param metadata: further facts to store with the data; anything that JSON can hold.
    :param overwrite: replace an existing folder with this name.
    :param device: where batches of the result will be drawn.
    :param progress: show a progress bar; where there is no terminal, a line a minute.
    :return: the data; metadata has ``env_id``, algorithm, options, versions and the mean return of complete episodes
        with its 95 % interval.
    :raises ValueError: a value is out of range, JSON cannot hold the metadata, or the spaces differ from the model's.
    :raises DatasetError: ``path`` already exists.
    :raises OSError: ``path`` cannot be written; no incomplete file is left behind.
    """
    for name, value in (("steps", steps), ("n_envs", n_envs)):
        if value < 1:
            raise ValueError(f"{name} is {value}; expected at least 1")
    as_npz = path is not None and Path(path).suffix != ""
    if path is not None and as_npz:
        recording_files.require_output(path)
    with _opened(env, n_envs) as given:
        venv, normalize = _unnormalized(model, given)
        action_space = checks.require_box_actions(venv.action_space)
        _require_same_spaces(model, venv)
        explore = _exploration(action_space, noise, epsilon, seed)
        facts = {
            **_place(env, venv),
            "algorithm": type(model).__name__,
            "steps": int(steps),
            "seed": int(seed),
            "n_envs": venv.num_envs,
            "deterministic": bool(deterministic),
            "noise": np.asarray(noise).tolist(),
            "epsilon": float(epsilon),
            **recording_files.action_bounds(action_space),
            **recording_files.today_and_versions(),
            **_json(metadata),
        }
        rollouts = _Rollouts(model, venv, normalize, explore, deterministic)
        with seeded_torch(seed), progress_bar(progress, total=steps, unit=" steps", desc="recording") as bar:
            parts = rollouts.parts(steps, seed, bar)
            if path is not None and not as_npz:
                with storage.DatasetWriter(path, venv.observation_space, action_space, facts, overwrite) as writer:
                    for part in parts:
                        writer.append(part)
                    writer.metadata.update(recording_files.returns_of(rollouts.returns))
                return storage.load(path, device=device)
            arrays = _collected(parts, venv.observation_space, action_space, steps)
        facts.update(recording_files.returns_of(rollouts.returns))
        if path is not None:
            recording_files.write_recording(recording_files.Recording(_flat(arrays), facts), path)
        return OfflineReplayBuffer.from_arrays(
            arrays,
            observation_space=venv.observation_space,
            action_space=action_space,
            device=device,
            source="recording" if path is None else str(path),
            metadata=facts,
        )


@contextmanager
def _opened(env: GymEnv | str, n_envs: int) -> Iterator[VecEnv]:
    """The environments; closed at the end if they were made here."""
    from dipole_sb3.datasets import make_env

    if isinstance(env, str):
        name = env
        venv = DummyVecEnv([lambda: make_env(name)] * n_envs)
        try:
            yield venv
        finally:
            venv.close()
        return
    if n_envs != 1:
        raise ValueError(f"n_envs is {n_envs}, but env is already an environment; expected its name, or a VecEnv")
    yield env if isinstance(env, VecEnv) else DummyVecEnv([lambda: env])


def _unnormalized(model: BaseAlgorithm, venv: VecEnv) -> tuple[VecEnv, Transform]:
    """The environments inside VecNormalize, and how their observations are normalised for the model."""
    # SB3 moves images' channels first in a wrapper around the environments; predict() does this itself.
    while isinstance(venv, VecTransposeImage):
        venv = venv.venv
    if isinstance(venv, VecNormalize):
        return venv.venv, venv.normalize_obs
    if unwrap_vec_normalize(venv) is not None:
        raise ValueError(f"VecNormalize lies below {type(venv).__name__}; expected it as the outermost wrapper")
    own = model.get_vec_normalize_env()
    return venv, _saved_normalization(model) if own is None else own.normalize_obs


def _saved_normalization(model: BaseAlgorithm) -> Transform:
    """The normalisation of this package's models, which keep the statistics from their training."""
    statistics = model.observation_statistics if isinstance(model, OfflineAlgorithm) else {}
    return lambda observations: normalized(observations, statistics)


def _require_same_spaces(model: BaseAlgorithm, venv: VecEnv) -> None:
    who, found, expected = f"the model ({type(model).__name__})", model.action_space, venv.action_space
    if not (isinstance(found, spaces.Box) and isinstance(expected, spaces.Box)) or found.shape != expected.shape:
        differ = True
    else:
        differ = not (np.allclose(found.low, expected.low) and np.allclose(found.high, expected.high))
    if differ:
        raise ValueError(
            f"{who} acts in {checks.on_one_line(found)}, the environment expects {checks.on_one_line(expected)}"
        )
    sees, given = (image_layout.channels_first(space) for space in (model.observation_space, venv.observation_space))
    try:
        checks.require_same_spaces(who, sees, found, given, expected)
    except DatasetError as error:
        raise ValueError(str(error)) from error


def _exploration(space: spaces.Box, noise: float | Sequence[float], epsilon: float, seed: int) -> Transform:
    """Adds noise to actions [n, *action], clips them to their bounds, and replaces some by random ones."""
    if not 0 <= epsilon <= 1:
        raise ValueError(f"epsilon is {epsilon}; expected a probability in [0, 1]")
    deviation = action_deviation(space, noise)
    generator = np.random.default_rng(seed)

    def explore(actions: np.ndarray) -> np.ndarray:
        actions = np.clip(actions + generator.normal(size=actions.shape) * deviation, space.low, space.high)
        at_random = generator.random(len(actions)) < epsilon
        actions[at_random] = generator.uniform(space.low, space.high, actions.shape)[at_random]
        return actions.astype(space.dtype)

    return explore


def _place(env: GymEnv | str, venv: VecEnv) -> dict[str, Any]:
    if isinstance(env, str) and env.startswith("ogbench/"):
        return {"source": env}
    try:
        (spec,) = venv.get_attr("spec", 0)
    except AttributeError:  # a VecEnv that does not wrap Gymnasium environments
        return {}
    return environment_facts(spec)


@dataclass
class _Rollouts:
    """A model and its environments.

    :param normalize: raw observations → the model's input.
    :param explore: the model's actions → executed actions.
    """

    model: BaseAlgorithm
    venv: VecEnv
    normalize: Transform
    explore: Transform
    deterministic: bool
    returns: list[float] = field(default_factory=list)
    """Returns of the episodes that were played to their end."""

    def parts(self, steps: int, seed: int, bar: Any) -> Iterator[dict[str, Any]]:
        """Arrays in the buffer's format, ``steps`` transitions in total; the rows of an episode are consecutive."""
        count = self.venv.num_envs
        self.venv.seed(seed)
        observations = self.venv.reset()
        state, starts = None, np.ones(count, bool)
        rows: list[list[Row]] = [[] for _ in range(count)]
        totals = np.zeros(count)
        for step in range(-(-steps // count)):
            self._renew_noise(step, starts)
            actions, state = self.model.predict(self.normalize(observations), state, starts, self.deterministic)
            actions = self.explore(actions)
            following, rewards, starts, infos = self.venv.step(actions)
            kept = min(count, steps - step * count)
            for index in range(kept):
                ended = bool(starts[index])
                rows[index].append(
                    {
                        "observations": _one(observations, index),
                        "actions": actions[index],
                        "rewards": rewards[index],
                        "next_observations": _last(infos[index], index) if ended else _one(following, index),
                        "terminals": ended,
                        "masks": not ended or infos[index].get("TimeLimit.truncated", False),
                    }
                )
                totals[index] += rewards[index]
                if ended:
                    self.returns.append(float(totals[index]))
                    totals[index] = 0.0
                    yield _stacked(rows[index])
                    rows[index] = []
                # Rows of several environments must not mix; with one environment, rows can be written before the
                # episode ends.
                elif count == 1 and len(rows[index]) > _ROWS_AT_A_TIME:
                    yield _stacked(rows[index][:-1])
                    rows[index] = rows[index][-1:]
            observations = following
            bar.update(kept)
        for unfinished in filter(None, rows):
            unfinished[-1]["terminals"] = True  # cut: no recorded row follows it
            yield _stacked(unfinished)

    def _renew_noise(self, step: int, starts: np.ndarray) -> None:
        """Draws new noise for state-dependent exploration, as SB3's rollouts do, and at the start of every episode."""
        model: Any = self.model
        if getattr(model, "use_sde", False):
            frequency = model.sde_sample_freq
            if starts.any() or (frequency > 0 and step % frequency == 0):
                model.policy.reset_noise(len(starts))


def _one(observations: Any, index: int) -> Any:
    if isinstance(observations, dict):
        return {key: value[index] for key, value in observations.items()}
    return observations[index]


def _last(info: Mapping[str, Any], index: int) -> Any:
    """The last observation of an episode: a VecEnv returns the first one of the next episode instead."""
    if info.get("terminal_observation") is None:
        raise ValueError(
            f"environment {index} ended an episode and its info has no terminal_observation; expected it, as from "
            "all of Stable-Baselines3's VecEnvs"
        )
    return info["terminal_observation"]


def _stacked(rows: Sequence[Row]) -> dict[str, Any]:
    stacked: dict[str, Any] = {}
    for key, first in rows[0].items():
        if isinstance(first, dict):
            stacked[key] = {name: np.stack([row[key][name] for row in rows]) for name in first}
        else:
            stacked[key] = np.stack([row[key] for row in rows])
    for key in ("rewards", "terminals", "masks"):
        stacked[key] = stacked[key].astype(np.float32)
    return stacked


def _collected(
    parts: Iterator[Mapping[str, Any]], observation_space: spaces.Space[Any], action_space: spaces.Box, steps: int
) -> dict[str, Any]:
    """All parts as one set of arrays, each allocated once."""

    def empty(space: spaces.Space[Any]) -> Any:
        if isinstance(space, spaces.Dict):
            return {key: empty(part) for key, part in space.spaces.items()}
        return np.empty((steps, *(space.shape or ())), checks.stores_as(space))

    arrays = {
        "observations": empty(observation_space),
        "actions": np.empty((steps, *action_space.shape), np.float32),
        "rewards": np.empty(steps, np.float32),
        "next_observations": empty(observation_space),
        "terminals": np.empty(steps, np.float32),
        "masks": np.empty(steps, np.float32),
    }
    start = 0
    for part in parts:
        rows = slice(start, start + len(part["actions"]))
        for key, target in arrays.items():
            if isinstance(target, dict):
                for name, array in target.items():
                    array[rows] = part[key][name]
            else:
                target[rows] = part[key]
        start = rows.stop
    return arrays


def _flat(arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Arrays by their names in files: parts of a Dict observation are ``observations/KEY``."""
    flat: dict[str, np.ndarray] = {}
    for key, value in arrays.items():
        flat.update(
            {f"{key}/{name}": part for name, part in value.items()} if isinstance(value, dict) else {key: value}
        )
    return flat


def _json(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """Checks the metadata before the recording, not after it."""
    try:
        json.dumps(metadata, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"metadata cannot be written as JSON ({error})") from error
    return dict(metadata or {})
