"""The trainer's own results for given observations and noise: the reference that every bundle is compared with."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from dipole_runtime.vectors import ActionVectors, TestVectors
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from stable_baselines3.common.type_aliases import PyTorchObs
from torch import Tensor

from dipole_export.graphs import CandidateForm, GuidedForm, Statistics, flat_order, flat_size
from dipole_sb3.buffers.normalization import normalized
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.networks import diffusion, flow
from dipole_sb3.networks.acting_forms import Deterministic, Diffusion, Flow, OneStep

_ROWS_AT_ONCE = 16_384


def trainer_candidates(
    model: OfflineAlgorithm,
    form: CandidateForm,
    observations: np.ndarray,
    noise: np.ndarray,
    omegas: Sequence[float],
) -> TestVectors:
    """The trainer's own candidates and Q-values at every ω.

    :param model: not changed; its random generators are not used.
    :param form: the form in which its policy acts.
    :param observations: flat, in the robot's units, shape [vectors, observation].
    :param noise: what the candidates of each observation start from, shape [vectors, N, noise], float32.
    :param omegas: each ω ≥ −1.
    """
    size, num_candidates = get_action_dim(model.action_space), noise.shape[1]
    shape = (len(observations), len(omegas), num_candidates)
    candidates, q = np.empty((*shape, size), np.float32), np.empty(shape, np.float32)
    vectors_at_once = max(1, _ROWS_AT_ONCE // num_candidates)
    for start in range(0, len(observations), vectors_at_once):
        part = slice(start, start + vectors_at_once)
        for index, omega in enumerate(omegas):
            candidates[part, index], q[part, index] = _candidates(model, form, observations[part], noise[part], omega)
    return TestVectors(observations, noise, np.asarray(omegas, np.float32), candidates, q)


def _candidates(
    model: OfflineAlgorithm, form: CandidateForm, observations: np.ndarray, noise: np.ndarray, omega: float
) -> tuple[np.ndarray, np.ndarray]:
    """Actions in the actuators' units, shape [vectors, N, action], and their Q-values, [vectors, N], at one ω."""
    policy = model.policy
    policy.set_training_mode(False)
    vectors, count, width = noise.shape
    tensors, _ = policy.obs_to_tensor(_as_networks_see(observations, model))
    with torch.no_grad():
        rows = torch.as_tensor(noise.reshape(-1, width), device=policy.device)
        features = form.actor.features(tensors).repeat_interleave(count, dim=0)
        if isinstance(form, OneStep):
            scaled = form.actor.head(features, rows).clamp(-1.0, 1.0)
        elif isinstance(form, Diffusion):
            predictor = form.actor.head
            scaled = diffusion.sample_actions(lambda x, step: predictor(features, x, step), form.schedule, rows)
        else:
            scaled = flow.sample_actions(_velocity(form, features, omega), rows, form.flow_steps)
        values = form.critic.head(form.critic.features(_repeated(tensors, count)), scaled).amin(dim=0)
    space = model.action_space
    assert isinstance(space, spaces.Box)
    actions = policy.unscale_action(scaled.cpu().numpy().reshape(-1, *space.shape))
    actions = np.clip(actions, space.low, space.high)
    return actions.reshape(vectors, count, -1), values.cpu().numpy().reshape(vectors, count)


def _velocity(form: GuidedForm | Flow, features: Tensor, omega: float) -> flow.Velocity:
    if isinstance(form, Flow):
        return form.actor.head.field(features)
    head = form.actor.head
    # As in training: if only one network has an effect, the other is not evaluated.
    if omega == 0:
        return head.positive_field(features)
    if omega == -1:
        return head.negative_field(features)
    both = head.fields(features)

    def guided(x: Tensor, time: Tensor) -> Tensor:
        return flow.guide(*both(x, time), omega)

    return guided


def trainer_actions(model: OfflineAlgorithm, form: Deterministic, observations: np.ndarray) -> ActionVectors:
    """The actions of ``model.policy.predict``, and their Q-values.

    It uses ``predict``, not the form, so that a policy that acts differently from its form is detected.

    :param model: not changed.
    :param form: the form in which its policy acts.
    :param observations: flat, in the robot's units, shape [vectors, observation].
    """
    policy = model.policy
    actions, q = [], []
    for start in range(0, len(observations), _ROWS_AT_ONCE):
        seen = _as_networks_see(observations[start : start + _ROWS_AT_ONCE], model)
        predicted, _ = policy.predict(seen, deterministic=True)
        rows = len(predicted)
        actions.append(predicted.reshape(rows, -1).astype(np.float32))
        scaled = policy.scale_action(predicted).reshape(rows, -1).astype(np.float32)
        with torch.no_grad():
            tensors, _ = policy.obs_to_tensor(seen)
            features = form.critic.features(tensors)
            values = form.critic.head(features, torch.as_tensor(scaled, device=policy.device)).amin(dim=0)
        q.append(values.cpu().numpy())
    return ActionVectors(observations, np.concatenate(actions), np.concatenate(q))


def random_observations(space: spaces.Space[Any], statistics: Statistics, count: int, seed: int) -> np.ndarray:
    """Random observations similar to those that the networks may get, flat: [count, observation], float32.

    If the data's statistics are known, values are normally distributed with these and clipped to the space's bounds.
    Otherwise they are Gymnasium's samples (bounded on both sides: uniform; unbounded: standard normal).
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
    """A random choice of the given observations, flat: [count, observation], float32; all if there are fewer.

    :param observations: raw, shape [rows, *observation]; by key for a Dict.
    :raises ValueError: keys or shapes differ from the space's, there are no rows, or numbers are not finite.
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


def _as_networks_see(observations: np.ndarray, model: OfflineAlgorithm) -> np.ndarray | dict[str, np.ndarray]:
    """Flat observations as ``policy.predict`` takes them: by key, in the space's shapes, normalised."""
    order = flat_order(model.observation_space)
    ends = np.cumsum([flat_size(part) for part in order.values()])[:-1]
    parts = {}
    for (key, part), flat in zip(order.items(), np.split(observations, ends, axis=1), strict=True):
        parts[key] = flat.reshape(-1, *(part.shape or ())).astype(part.dtype)
    return normalized(parts.get(None, parts), model.observation_statistics)  # type: ignore[no-any-return]


def _repeated(observations: PyTorchObs, count: int) -> PyTorchObs:
    if isinstance(observations, dict):
        return {key: value.repeat_interleave(count, dim=0) for key, value in observations.items()}
    return observations.repeat_interleave(count, dim=0)
