"""Frames of recorded episodes, as imitation learning keeps them, become transitions with rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from gymnasium import spaces

from dipole_sb3.common import checks
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.expressions import Expression, ExpressionError, Vector

_ROWS_AT_A_TIME = 4096
_LARGEST = float(np.finfo(np.float32).max)


@dataclass
class Frames:
    """Episodes one after another, T frames in all.

    :param observations: by key, [T, …] each.
    :param actions: [T, action], done after the frame's observation, in the environment's units.
    :param last: [T] of bool, the last frame of every episode.
    :param ended: [T] of bool, where the transition that begins at the frame ended its episode.
    :param stops: [T] of bool, where nothing more is to be expected after it; a part of ``ended``.
    :param rewards: [T], of those transitions; None: not recorded.
    :param following: what was seen after the actions, as ``observations``; None: what the next frame shows.
    :param told: further numbers of the frames that a reward may use, by name, [T] each.
    :param names: of the elements of ``observations`` by key, and of the actions' under ``"action"``, where they have
        any.
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    last: np.ndarray
    ended: np.ndarray
    stops: np.ndarray
    rewards: np.ndarray | None = None
    following: dict[str, np.ndarray] | None = None
    told: dict[str, np.ndarray] = field(default_factory=dict)
    names: dict[str, Sequence[str]] = field(default_factory=dict)


def transitions(source: str, frames: Frames, reward: str | None) -> dict[str, Any]:
    """The arrays that :meth:`OfflineReplayBuffer.from_arrays` takes; of one key, not a mapping but its array.

    Where ``following`` is None, nobody knows what came after an episode's last frame. That frame is left out, and the
    episode ends one frame earlier, by time; unless the frame stops bootstrapping, so that what came after it does not
    count: it then leads to itself.

    :param source: name of the data in error messages.
    :param frames: the episodes.
    :param reward: an expression; None: the recorded rewards.
    :raises DatasetError: no rewards, an expression that is not one or has no value somewhere, or no transition.
    """
    kept, then, ended = places(frames)
    if len(kept) == 0:
        raise DatasetError(f"{source}: no frame is followed by another of its episode, so there is no transition")
    following = frames.following
    if following is None:
        following = {key: array[then] for key, array in frames.observations.items()}
    observations = {key: array[kept] for key, array in frames.observations.items()}
    actions = frames.actions[kept]
    if reward is not None:
        told = {key: values[kept] for key, values in frames.told.items()}
        rewards = _rewards(source, reward, observations, actions, following, told, frames.names)
    elif frames.rewards is not None:
        rewards = frames.rewards[kept]
    else:
        raise DatasetError(
            f'{source}: has no rewards; expected a reward expression, such as reward="-abs(next_observation[0])"'
        )
    one = len(observations) == 1
    return {
        "observations": next(iter(observations.values())) if one else observations,
        "next_observations": next(iter(following.values())) if one else following,
        "actions": actions,
        "rewards": rewards,
        "terminals": ended.astype(np.float32),
        "masks": 1 - frames.stops[kept].astype(np.float32),
    }


def places(frames: Frames) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of every transition the frame where it begins, the one that it leads to (where nothing else was seen after the
    action), int64 [T] each and ascending, and whether it ends its episode, bool [T].
    """
    ended, rows = frames.ended | frames.last, np.arange(len(frames.last))
    if frames.following is not None:
        return rows, rows, ended
    kept = np.flatnonzero(~frames.last | frames.stops)
    before = np.flatnonzero(frames.last & ~frames.stops) - 1
    before = before[before >= 0]
    ended[before] = True  # of an episode of one frame that is the end of the one before it, which has ended anyway
    then = np.minimum(rows + 1, len(rows) - 1)
    then[frames.last] = rows[frames.last]
    return kept, then[kept], ended[kept]


def _rewards(
    source: str,
    text: str,
    observations: Mapping[str, np.ndarray],
    actions: np.ndarray,
    following: Mapping[str, np.ndarray],
    told: Mapping[str, np.ndarray],
    names: Mapping[str, Sequence[str]],
) -> np.ndarray:
    """The expression's value for every transition, [T] float32.

    Several observations are one vector to it, in their order, whose elements are also called ``KEY.NAME``, or
    ``KEY.INDEX`` where they have no names.
    """
    columns = {
        "observation": _joined(observations, len(actions)),
        "action": _joined({"action": actions}, len(actions)),
        "next_observation": _joined(following, len(actions)),
        **{key: _joined({key: values}, len(actions)) for key, values in told.items()},
    }
    named = {"observation": _element_names(observations, names), "action": tuple(names.get("action", ()))}
    named["next_observation"] = named["observation"]
    try:
        expression = Expression(
            text, {key: Vector(values.shape[1], named.get(key, ())) for key, values in columns.items()}
        )
    except ExpressionError as error:
        raise DatasetError(f"{source}: the reward: {error}") from error
    rewards = np.empty(len(actions), np.float32)
    for start in range(0, len(rewards), _ROWS_AT_A_TIME):
        parts = [values[start : start + _ROWS_AT_A_TIME].tolist() for values in columns.values()]
        for row, vectors in enumerate(zip(*parts, strict=True), start):
            try:
                value = expression(dict(zip(columns, vectors, strict=True)))
            except (ArithmeticError, ValueError) as error:
                raise DatasetError(f"{source}: the reward of transition {row} has no value ({error})") from error
            if not abs(value) <= _LARGEST:
                raise DatasetError(f"{source}: the reward of transition {row} is {value}, expected a finite number")
            rewards[row] = value
    return rewards


def _joined(arrays: Mapping[str, np.ndarray], rows: int) -> np.ndarray:
    return np.concatenate([np.zeros((rows, 0)), *(array.reshape(rows, -1) for array in arrays.values())], axis=1)


def _element_names(observations: Mapping[str, np.ndarray], names: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    if len(observations) == 1:
        return tuple(names.get(next(iter(observations)), ()))
    found: list[str] = []
    for key, array in observations.items():
        width = int(np.prod(array.shape[1:], dtype=np.int64))
        found += [f"{key}.{name}" for name in names.get(key) or range(width)]
    return tuple(found)


def require_features(source: str, known: Sequence[str], wanted: Sequence[str]) -> None:
    """Refuses observations that the data do not have, and none at all.

    :raises DatasetError: names the first that is missing, and what there is.
    """
    if not wanted:
        raise DatasetError(f"{source}: has no observations but images, which are not read yet; found {_listed(known)}")
    for key in wanted:
        if key not in known:
            raise DatasetError(f"{source}: has no {key}; expected observations among {_listed(known)}")


def require_bounds(source: str, actions: np.ndarray, space: spaces.Box | None) -> None:
    """Refuses bounds for another number of elements than the actions have."""
    if space is not None and space.shape != actions.shape[1:]:
        raise DatasetError(
            f"{source}: its actions have shape {actions.shape[1:]}, expected {space.shape}, as the bounds have"
        )


def refuse_images(source: str, key: str, kind: str, others: Sequence[str]) -> DatasetError:
    """The error for an observation that is an image or a video."""
    return DatasetError(
        f"{source}: {key} is {kind}, which is not read yet; expected observations among {_listed(others) or 'others'}"
    )


def as_floats(source: str, key: str, values: np.ndarray) -> np.ndarray:
    """Recorded numbers as float32.

    :raises DatasetError: objects, or a value that is not finite, with its frame.
    """
    values = checks.require_numeric(source, key, values)
    checks.require_finite(source, key, values)
    return np.ascontiguousarray(values, np.float32)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)
