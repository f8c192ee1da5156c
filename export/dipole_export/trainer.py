"""What the trainer itself does with given observations and noise: the reference that every bundle is held against."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from dipole_runtime.vectors import TestVectors
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PyTorchObs

from dipole_export.graphs import Statistics, flat_order, flat_size
from dipole_sb3 import DIPOLE
from dipole_sb3.buffers.normalization import normalized

_ROWS_AT_ONCE = 16_384


def trainer_vectors(
    model: DIPOLE, observations: np.ndarray, num_candidates: int, omegas: Sequence[float], seed: int
) -> TestVectors:
    """The trainer's own candidates and Q-values at every ω, from noise of its own for every observation.

    :param model: not changed; its generators are not drawn from.
    :param observations: flat, in the robot's units, shape [vectors, observation].
    :param num_candidates: N.
    :param omegas: each ω ≥ −1.
    :param seed: of the noise.
    """
    size = model.policy.action_dim
    noise = np.random.default_rng(seed).standard_normal((len(observations), num_candidates, size)).astype(np.float32)
    shape = (len(observations), len(omegas), num_candidates)
    candidates, q = np.empty((*shape, size), np.float32), np.empty(shape, np.float32)
    vectors_at_once = max(1, _ROWS_AT_ONCE // num_candidates)
    for start in range(0, len(observations), vectors_at_once):
        part = slice(start, start + vectors_at_once)
        for index, omega in enumerate(omegas):
            candidates[part, index], q[part, index] = _candidates(model, observations[part], noise[part], omega)
    return TestVectors(observations, noise, np.asarray(omegas, np.float32), candidates, q)


def _candidates(
    model: DIPOLE, observations: np.ndarray, noise: np.ndarray, omega: float
) -> tuple[np.ndarray, np.ndarray]:
    """Actions in the actuators' units [vectors, N, action], and their Q-values [vectors, N], at one ω."""
    policy = model.policy
    policy.set_training_mode(False)
    vectors, count, size = noise.shape
    seen = _as_networks_see(observations, policy.observation_space, model.observation_statistics)
    tensors, _ = policy.obs_to_tensor(seen)
    with torch.no_grad():
        rows = torch.as_tensor(noise.reshape(-1, size), device=policy.device)
        features = policy.actor.features(tensors).repeat_interleave(count, dim=0)
        scaled = policy.sample_actions(features, rows, omega)
        values = policy.q_values(_repeated(tensors, count), scaled)
    space = model.action_space
    assert isinstance(space, spaces.Box)
    actions = policy.unscale_action(scaled.cpu().numpy().reshape(-1, *space.shape))
    actions = np.clip(actions, space.low, space.high)
    return actions.reshape(vectors, count, size), values.cpu().numpy().reshape(vectors, count)


def random_observations(space: spaces.Space[Any], statistics: Statistics, count: int, seed: int) -> np.ndarray:
    """Observations like those that the networks may meet, flat: [count, observation], float32.

    Where the data's statistics are known, normal with these and within the space's bounds; else Gymnasium's samples
    (uniform where a space is bounded, standard normal where it is not).
    """
    random = np.random.default_rng(seed)
    columns = []
    for key, part in flat_order(space).items():
        if key in statistics:
            mean, std, _ = statistics[key]
            values = mean + std * random.standard_normal((count, *mean.shape))
            assert isinstance(part, spaces.Box)
            values = np.clip(values, part.low, part.high)
        else:
            sampled = copy.deepcopy(part)
            sampled.seed(seed)
            values = np.stack([np.asarray(sampled.sample()) for _ in range(count)])
        columns.append(values.reshape(count, flat_size(part)))
    return np.concatenate(columns, axis=1).astype(np.float32)


def drawn_observations(
    space: spaces.Space[Any], observations: np.ndarray | Mapping[str, np.ndarray], count: int, seed: int
) -> np.ndarray:
    """Some of the given observations, flat: [count, observation], float32; all of them when there are fewer.

    :param observations: raw, shape [rows, *observation]; by key for a Dict.
    :raises ValueError: other keys or shapes than the space's, no rows, or numbers that are not finite.
    """
    order = flat_order(space)
    by_key = observations.items() if isinstance(observations, Mapping) else [(None, observations)]
    given: dict[str | None, np.ndarray] = dict(by_key)
    if set(given) != set(order):
        raise ValueError(f"observations: found the keys {sorted(map(str, given))}, expected {sorted(map(str, order))}")
    columns = []
    for key, part in order.items():
        values = np.asarray(given[key])
        if values.shape[1:] != (part.shape or ()) or len(values) != len(given[next(iter(order))]) or not len(values):
            name = "observations" if key is None else f"observations[{key!r}]"
            raise ValueError(
                f"{name}: found shape {values.shape}, expected rows of shape {part.shape or ()}, equally many"
            )
        columns.append(values.reshape(len(values), flat_size(part)))
    flat = np.concatenate(columns, axis=1).astype(np.float32)
    if not np.isfinite(flat).all():
        raise ValueError(f"observations: found {(~np.isfinite(flat)).sum()} numbers that are not finite, expected none")
    chosen = np.random.default_rng(seed).permutation(len(flat))[:count]
    return flat[chosen]


def _as_networks_see(
    observations: np.ndarray, space: spaces.Space[Any], statistics: Statistics
) -> np.ndarray | dict[str, np.ndarray]:
    """Flat observations as ``policy.predict`` takes them: by key, in the space's shapes, normalised."""
    order = flat_order(space)
    ends = np.cumsum([flat_size(part) for part in order.values()])[:-1]
    parts = {}
    for (key, part), flat in zip(order.items(), np.split(observations, ends, axis=1), strict=True):
        parts[key] = flat.reshape(-1, *(part.shape or ())).astype(part.dtype)
    return normalized(parts.get(None, parts), statistics)  # type: ignore[no-any-return]


def _repeated(observations: PyTorchObs, count: int) -> PyTorchObs:
    if isinstance(observations, dict):
        return {key: value.repeat_interleave(count, dim=0) for key, value in observations.items()}
    return observations.repeat_interleave(count, dim=0)
