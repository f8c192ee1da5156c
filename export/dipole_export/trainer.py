"""The trainer's own results for given observations and noise: the reference that every bundle is compared with."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from dipole_runtime.vectors import ActionVectors, TestVectors
from gymnasium import spaces
from stable_baselines3.common.preprocessing import get_action_dim
from torch import Tensor

from dipole_export.graphs import CandidateForm, GuidedForm
from dipole_export.observed import Statistics, flat_order, flat_size, picture_order
from dipole_export.pictures import Seen, as_trained, resized, trained_shape
from dipole_sb3.buffers.normalization import normalized
from dipole_sb3.common.observations import space_parts
from dipole_sb3.datasets.image_sizes import ImageSize
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.networks import diffusion, flow
from dipole_sb3.networks.acting_forms import Deterministic, Diffusion, Flow, OneStep

_ROWS_AT_ONCE = 16_384
_PICTURES_AT_ONCE = 64


def trainer_candidates(
    model: OfflineAlgorithm,
    form: CandidateForm,
    seen: Seen,
    noise: np.ndarray,
    omegas: Sequence[float],
) -> TestVectors:
    """The trainer's own candidates and Q-values at every ω.

    :param model: not changed; its random generators are not used.
    :param form: the form in which its policy acts.
    :param seen: observations in the robot's units.
    :param noise: what the candidates of each observation start from, shape [vectors, N, noise], float32.
    :param omegas: each ω ≥ −1.
    """
    size, num_candidates = get_action_dim(model.action_space), noise.shape[1]
    shape = (len(seen), len(omegas), num_candidates)
    candidates, q = np.empty((*shape, size), np.float32), np.empty(shape, np.float32)
    policy = model.policy
    policy.set_training_mode(False)
    for part in _parts(seen, num_candidates):
        tensors, _ = policy.obs_to_tensor(_as_networks_see(seen[part], model))
        with torch.no_grad():
            features = form.actor.features(tensors), form.critic.features(tensors)
        for index, omega in enumerate(omegas):
            candidates[part, index], q[part, index] = _candidates(model, form, features, noise[part], omega)
    return TestVectors(seen.flat, noise, np.asarray(omegas, np.float32), candidates, q, seen.pictures)


def _parts(seen: Seen, rows_of_each: int) -> Iterator[slice]:
    """So many observations at once that their features fit into memory."""
    at_once = max(1, _ROWS_AT_ONCE // rows_of_each)
    at_once = min(at_once, _PICTURES_AT_ONCE) if seen.pictures else at_once
    yield from (slice(start, start + at_once) for start in range(0, len(seen), at_once))


def _candidates(
    model: OfflineAlgorithm, form: CandidateForm, extracted: tuple[Tensor, Tensor], noise: np.ndarray, omega: float
) -> tuple[np.ndarray, np.ndarray]:
    """Actions in the actuators' units, shape [vectors, N, action], and their Q-values, [vectors, N], at one ω.

    :param extracted: the features of actor and critics, [vectors, features] each.
    """
    policy = model.policy
    vectors, count, width = noise.shape
    with torch.no_grad():
        rows = torch.as_tensor(noise.reshape(-1, width), device=policy.device)
        features, valued = (each.repeat_interleave(count, dim=0) for each in extracted)
        if isinstance(form, OneStep):
            scaled = form.actor.head(features, rows).clamp(-1.0, 1.0)
        elif isinstance(form, Diffusion):
            predictor = form.actor.head
            scaled = diffusion.sample_actions(lambda x, step: predictor(features, x, step), form.schedule, rows)
        else:
            scaled = flow.sample_actions(_velocity(form, features, omega), rows, form.flow_steps)
        values = form.critic.head(valued, scaled).amin(dim=0)
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


def trainer_actions(model: OfflineAlgorithm, form: Deterministic, seen: Seen) -> ActionVectors:
    """The actions of ``model.policy.predict``, and their Q-values.

    It uses ``predict``, not the form, so that a policy that acts differently from its form is detected.

    :param model: not changed.
    :param form: the form in which its policy acts.
    :param seen: observations in the robot's units.
    """
    policy = model.policy
    actions, q = [], []
    for part in _parts(seen, 1):
        taken = _as_networks_see(seen[part], model)
        predicted, _ = policy.predict(taken, deterministic=True)
        rows = len(predicted)
        actions.append(predicted.reshape(rows, -1).astype(np.float32))
        scaled = policy.scale_action(predicted).reshape(rows, -1).astype(np.float32)
        with torch.no_grad():
            tensors, _ = policy.obs_to_tensor(taken)
            features = form.critic.features(tensors)
            values = form.critic.head(features, torch.as_tensor(scaled, device=policy.device)).amin(dim=0)
        q.append(values.cpu().numpy())
    return ActionVectors(seen.flat, np.concatenate(actions), np.concatenate(q), seen.pictures)


def random_observations(
    space: spaces.Space[Any], statistics: Statistics, count: int, seed: int, sizes: Sequence[ImageSize] = ()
) -> Seen:
    """Random observations similar to those that the networks may get.

    If the data's statistics are known, values are normally distributed with these and clipped to the space's bounds.
    Otherwise they are Gymnasium's samples (bounded on both sides: uniform; unbounded: standard normal).

    :param sizes: height and width of each picture.
    """
    random = np.random.default_rng(seed)
    columns = [np.empty((count, 0))]
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
    pictures = tuple(
        resized(random.integers(0, 256, (count, *trained_shape(part)), np.uint8), size)
        for part, size in zip(picture_order(space).values(), sizes, strict=True)
    )
    return Seen(pictures, np.concatenate(columns, axis=1).astype(np.float32))


def drawn_observations(
    space: spaces.Space[Any],
    observations: np.ndarray | Mapping[str, np.ndarray],
    count: int,
    seed: int,
    sizes: Sequence[ImageSize] = (),
) -> Seen:
    """A random choice of the given observations; all if there are fewer.

    :param observations: raw, shape [rows, *observation]; by key for a Dict. Pictures have their channels first or last
        and the training's size, in which case they are resized, or the camera's.
    :param sizes: height and width of each picture.
    :raises ValueError: keys or shapes differ from the space's, there are no rows, or numbers are not finite.
    """
    order, sights = flat_order(space), picture_order(space)
    by_key = observations.items() if isinstance(observations, Mapping) else [(None, observations)]
    given: dict[str | None, np.ndarray] = dict(by_key)
    if set(given) != set(space_parts(space)):
        raise ValueError(
            f"observations: found the keys {sorted(map(str, given))}, expected {sorted(map(str, space_parts(space)))}"
        )
    rows = len(next(iter(given.values())))
    columns = [np.empty((rows, 0), np.float32)]
    for key, part in order.items():
        values = np.asarray(given[key])
        if values.shape[1:] != (part.shape or ()) or len(values) != rows or not rows:
            raise _other_shape(key, values.shape, f"{part.shape or ()}, equally many")
        columns.append(values.reshape(rows, flat_size(part)))
    flat = np.concatenate(columns, axis=1).astype(np.float32)
    if not np.isfinite(flat).all():
        raise ValueError(f"observations: found {(~np.isfinite(flat)).sum()} numbers that are not finite, expected none")
    chosen = np.random.default_rng(seed).permutation(rows)[:count]
    pictures = []
    for (key, part), size in zip(sights.items(), sizes, strict=True):
        trained = trained_shape(part)
        recorded = given[key]
        if len(recorded) != rows or not rows:
            raise _other_shape(key, recorded.shape, f"{trained}, equally many")
        some = np.stack([np.asarray(recorded[row]) for row in chosen])
        if some.shape[1:] == (trained[2], *trained[:2]) != trained:
            some = np.moveaxis(some, 1, -1)
        if some.dtype != np.uint8 or some.shape[1:] not in (trained, (*size, trained[2])):
            raise _other_shape(key, (rows, *some.shape[1:]), f"{trained}, uint8")
        pictures.append(np.ascontiguousarray(resized(some, size)))
    return Seen(tuple(pictures), flat[chosen])


def _other_shape(key: str | None, found: tuple[int, ...], expected: str) -> ValueError:
    name = "observations" if key is None else f"observations[{key!r}]"
    return ValueError(f"{name}: found shape {found}, expected rows of shape {expected}")


def _as_networks_see(seen: Seen, model: OfflineAlgorithm) -> np.ndarray | dict[str, np.ndarray]:
    """Observations as ``policy.predict`` takes them: by key, in the space's shapes, normalised."""
    order = flat_order(model.observation_space)
    ends = np.cumsum([flat_size(part) for part in order.values()])[:-1]
    parts: dict[str | None, np.ndarray] = {}
    for (key, part), flat in zip(order.items(), np.split(seen.flat, ends, axis=1), strict=bool(order)):
        parts[key] = flat.reshape(-1, *(part.shape or ())).astype(part.dtype)
    for (key, space), picture in zip(picture_order(model.observation_space).items(), seen.pictures, strict=True):
        parts[key] = as_trained(picture, space)
    ordered = {key: parts[key] for key in space_parts(model.observation_space)}
    return normalized(ordered.get(None, ordered), model.observation_statistics)  # type: ignore[no-any-return]
