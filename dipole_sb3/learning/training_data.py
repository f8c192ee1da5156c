"""Turns everything that users may pass as a data set into one kind of buffer, and checks that it suits the model."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from numbers import Real
from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import Schedule

from dipole_sb3.buffers import n_step_windows
from dipole_sb3.buffers.mixed_buffer import MixedReplayBuffer, recorded_part
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common import checks
from dipole_sb3.datasets import load_dataset, takes_spaces

DatasetLike = OfflineReplayBuffer | ReplayBuffer | str | pathlib.Path | Mapping[str, Any]


def adopted(
    dataset: DatasetLike, known: tuple[spaces.Space[Any], spaces.Space[Any]] | None, device: torch.device
) -> OfflineReplayBuffer:
    """A data set as a buffer on a device.

    :param dataset: a buffer of ours or of SB3, a name, a path, or a mapping of arrays.
    :param known: the model's observation and action space, which the data must have; None: any spaces.
    :raises DatasetError: it is malformed, or disagrees with the spaces.
    """
    # Arrays and files hold raw recorded values; only the environment's spaces tell their bounds.
    known_spaces: dict[str, Any] = {} if known is None else _by_name(*known)
    if isinstance(dataset, str | pathlib.Path):
        buffer = load_dataset(dataset, device=device, **(known_spaces if takes_spaces(dataset) else {}))
    elif isinstance(dataset, OfflineReplayBuffer):
        buffer = dataset
    elif isinstance(dataset, ReplayBuffer):
        buffer = OfflineReplayBuffer.from_replay_buffer(dataset, device=device)
    else:
        buffer = OfflineReplayBuffer.from_arrays(dataset, source="dataset", device=device, **known_spaces)
    if known is None:
        buffer = buffer.with_channels_first()
    else:
        buffer = buffer.with_channels_of(known[0])
        checks.require_same_spaces(buffer.source, buffer.observation_space, buffer.action_space, *known)
    return buffer.to(device)


def _by_name(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> dict[str, Any]:
    return {"observation_space": observation_space, "action_space": action_space}


def has_recorded_data(buffer: OfflineReplayBuffer | None, dataset: OfflineReplayBuffer | None) -> bool:
    """Whether a model with this replay buffer and this data set can learn without an environment."""
    if isinstance(buffer, MixedReplayBuffer):
        return dataset is not None or buffer.n_recorded > 0
    return buffer is not None


def require_n_steps(n_steps: int) -> None:
    """Refuses anything but a whole number of at least 1."""
    checks.require_whole_number("n_steps", n_steps, 1)


def require_consecutive(buffer: OfflineReplayBuffer, argument: str) -> None:
    """Refuses data whose rows do not follow each other, where an argument needs what came next.

    :param argument: name and value, for the message.
    """
    data = recorded_part(buffer)
    rows = data.size()
    n_step_windows.require_consecutive(data.source, data.dones[:rows], data.breaks()[:rows], argument)


def offline_ratio_at(ratio: float | Schedule | None, progress_remaining: float) -> float | None:
    """The value of ``offline_ratio``; for a schedule, the value at the current progress.

    :raises ValueError: it is not a number in [0, 1].
    """
    if ratio is None:
        return None
    name = "offline_ratio"
    if callable(ratio):
        name = f"offline_ratio({progress_remaining:g})"
        ratio = ratio(progress_remaining)
    if isinstance(ratio, bool) or not isinstance(ratio, Real) or not 0 <= ratio <= 1:
        raise ValueError(f"{name} is {ratio!r}, expected a number in [0, 1]")
    return float(ratio)
