"""robomimic's HDF5 files: demonstrations with observations by key."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common import checks
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets.array_files import HDF5_SUFFIXES
from dipole_sb3.datasets.frames import Frames, as_floats, refuse_images, require_bounds, require_features, transitions

_GYM = 2
"""``env_type`` of environments that Gymnasium makes, in ``env_args``."""


def is_one(path: Path) -> bool:
    """Whether an HDF5 file has robomimic's groups; damaged files do not."""
    if path.suffix not in HDF5_SUFFIXES or not path.is_file():
        return False
    import h5py

    try:
        with h5py.File(path, "r") as file:
            return "data" in file and isinstance(file["data"], h5py.Group) and bool(_demonstrations(file))
    except (OSError, RuntimeError, KeyError):
        return False


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "auto",
    reward: str | None = None,
    observations: Sequence[str] | None = None,
    filter_key: str | None = None,
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Box | None = None,
) -> OfflineReplayBuffer:
    """The demonstrations of a robomimic file in memory, in the order of their numbers, without images.

    ``dones`` end episodes for good, also in the middle of a demonstration; demonstrations that end otherwise end by
    time. Without ``next_obs`` a row's next observation is the next row's, and the last row of a demonstration, whose
    next observation nobody knows, is left out unless it ended for good.

    :param path: the .hdf5 file.
    :param device: where batches will be drawn.
    :param reward: as in :func:`dipole_sb3.datasets.lerobot.load`; ``reward[0]`` is the recorded one, which counts when
        this is None.
    :param observations: keys of ``obs``, in this order; one is an array, several are a Dict. None: all but images.
    :param filter_key: a name under ``mask``, such as ``"train"``: only its demonstrations. None: all of them.
    :param observation_space: checked against; inferred from the data when None.
    :param action_space: bounds of the actions; [−1, 1], robomimic's own, when None.
    :return: a buffer whose metadata has ``env_args``, and ``env_id`` where robomimic takes the environment from
        Gymnasium.
    :raises DatasetError: damaged, no such key, images asked for, or arrays of different lengths.
    :raises ImportError: h5py is not installed.
    """
    path = Path(path)
    with _opened(path) as file:
        names = _demonstrations(file) if filter_key is None else _filtered(path, file, filter_key)
        chosen = _chosen(path, file["data"][names[0]], observations)
        arrays = _arrays(file["data"][names[0]], chosen)
        parts = [_demonstration(f"{path}: {name}", file["data"][name], arrays) for name in names]
        facts = _environment_facts(path, file)
    found = _together(path, names, parts)
    last = np.zeros(len(found["actions"]), bool)
    last[np.cumsum([len(part["actions"]) for part in parts]) - 1] = True
    dones = found["dones"] != 0
    rewards = found.get("rewards")
    has_next = f"next_obs/{chosen[0]}" in found
    require_bounds(str(path), found["actions"], action_space)
    frames = Frames(
        observations={key: found[f"obs/{key}"] for key in chosen},
        actions=found["actions"],
        last=last,
        ended=dones,
        stops=dones,
        rewards=rewards,
        following={key: found[f"next_obs/{key}"] for key in chosen} if has_next else None,
        told={} if rewards is None else {"reward": rewards},
    )
    return OfflineReplayBuffer.from_arrays(
        transitions(str(path), frames, reward),
        observation_space=observation_space,
        action_space=action_space,
        device=device,
        source=str(path),
        metadata={
            "format": "robomimic",
            **facts,
            "observations": list(chosen),
            **({} if filter_key is None else {"filter_key": filter_key}),
            **({} if reward is None else {"reward": reward}),
        },
    )


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise DatasetError(f"{path}: the file is damaged or truncated ({' '.join(str(error).split())})") from error


def _demonstrations(file: Any) -> list[str]:
    """``demo_0``, ``demo_1``, …, in the order of their numbers."""
    numbered = [(int(match[1]), name) for name in file["data"] if (match := re.fullmatch(r"demo_(\d+)", name))]
    return [name for _, name in sorted(numbered)]


def _filtered(path: Path, file: Any, filter_key: str) -> list[str]:
    known = sorted(file["mask"]) if "mask" in file else []
    if filter_key not in known:
        raise DatasetError(f"{path}: has no filter key {filter_key}; found {', '.join(known) or 'none'}")
    wanted = {name.decode() if isinstance(name, bytes) else str(name) for name in file["mask"][filter_key][()]}
    there = _demonstrations(file)
    if missing := sorted(wanted - set(there)):
        raise DatasetError(f"{path}: the filter key {filter_key} names {missing[0]}, which is not in the file")
    if not wanted:
        raise DatasetError(f"{path}: the filter key {filter_key} names no demonstration")
    return [name for name in there if name in wanted]


def _chosen(path: Path, demonstration: Any, wanted: Sequence[str] | None) -> list[str]:
    if "obs" not in demonstration:
        raise DatasetError(
            f"{path}: {demonstration.name} has no obs, as before robomimic's dataset_states_to_obs.py has made them; "
            f"found {', '.join(demonstration)}"
        )
    known = list(demonstration["obs"])
    plain = [key for key in known if not _is_image(demonstration["obs"][key])]
    chosen = plain if wanted is None else list(wanted)
    for key in chosen:
        if key in known and key not in plain:
            raise refuse_images(str(path), key, "an image", plain)
    require_features(str(path), known, chosen)
    return chosen


def _is_image(values: Any) -> bool:
    """Colours are bytes, depths are floats; both have rows, columns and channels."""
    return len(values.shape) == 4


def _arrays(demonstration: Any, chosen: Sequence[str]) -> list[str]:
    """Names of the arrays that are read of every demonstration, as one of them has them."""
    names = ["actions", *(f"obs/{key}" for key in chosen)]
    names += [f"next_obs/{key}" for key in chosen] if "next_obs" in demonstration else []
    return names + [name for name in ("rewards", "dones") if name in demonstration]


def _demonstration(where: str, group: Any, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Its arrays in memory, float32, all of the same length."""
    found: dict[str, np.ndarray] = {}
    for name in names:
        if name not in group:
            raise DatasetError(f"{where}: has no {name}, which other demonstrations have; found {', '.join(group)}")
        found[name] = as_floats(where, name, group[name][()])
    length = len(found["actions"])
    found.setdefault("dones", np.zeros(length, np.float32))
    for name, values in found.items():
        plain = name in ("rewards", "dones")
        checks.require_shape(where, name, values, (length,) if plain else (length, *values.shape[1:]))
    told = group.attrs.get("num_samples", length)
    if told != length:
        raise DatasetError(f"{where}: has {length} rows, its num_samples tells {told}")
    return found


def _together(path: Path, names: Sequence[str], parts: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    for key, first in parts[0].items():
        for name, part in zip(names, parts, strict=True):
            if part[key].shape[1:] != first.shape[1:]:
                raise DatasetError(
                    f"{path}: {name}: {key} has rows of shape {part[key].shape[1:]}, expected {first.shape[1:]} as in "
                    f"{names[0]}"
                )
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _environment_facts(path: Path, file: Any) -> dict[str, Any]:
    """``env_args``, and ``env_id`` where Gymnasium makes the environment."""
    text = file["data"].attrs.get("env_args")
    if text is None:
        return {}
    try:
        told = json.loads(text)
    except ValueError as error:
        raise DatasetError(f"{path}: its env_args are not valid JSON ({error})") from error
    of_gym = isinstance(told, dict) and told.get("env_type") == _GYM and "env_name" in told
    return {"env_args": told, **({"env_id": str(told["env_name"])} if of_gym else {})}
