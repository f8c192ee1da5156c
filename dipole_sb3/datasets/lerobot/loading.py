"""LeRobot's frames as transitions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common import described_spaces
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets.frames import Frames, as_floats, refuse_images, require_bounds, require_features, transitions
from dipole_sb3.datasets.lerobot import layout
from dipole_sb3.datasets.lerobot.layout import Feature, Info

_PREFIX = "observation."
_ENDS = ("next.reward", "next.done", "next.truncated", "next.success")


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "auto",
    reward: str | None = None,
    observations: Sequence[str] | None = None,
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Box | None = None,
) -> OfflineReplayBuffer:
    """A LeRobot data set (v2.1 or v3.0) in memory, without its images and videos.

    A frame's next observation is the next frame's. Nobody knows the one after an episode's last frame: that frame is
    left out, and the episode ends one frame earlier, by time, unless it ended for good there. ``next.done`` tells where
    an episode ended; for good, unless ``next.truncated`` or a ``next.success`` of 0 say otherwise. Without
    ``next.done``, ``next.success`` at the last frame is a real end.

    :param path: the folder, with ``meta/info.json``.
    :param device: where batches will be drawn.
    :param reward: an expression over ``observation[i]``, ``action[i]`` and ``next_observation[i]``, also by the names
        that the set gives to the elements, and over ``reward[0]`` and ``success[0]`` where it has ``next.reward`` and
        ``next.success``. Several observations are one vector, whose elements are also ``observation["state.0"]``. None:
        ``next.reward``.
    :param observations: features, in this order; one is an array, several are a Dict whose keys lack ``observation.``.
        None: all that begin with ``observation`` and are numbers.
    :param observation_space: checked against; inferred from the data when None.
    :param action_space: bounds of the actions; [−1, 1] when None.
    :return: a buffer whose metadata has ``fps``, ``robot_type`` and ``tasks``.
    :raises DatasetError: a missing or damaged file, another version, a missing feature, images asked for, frames that
        are not those of the episode table, or no rewards.
    :raises ImportError: pyarrow is not installed.
    """
    path = Path(path)
    info = layout.read_info(path)
    own = _own(path)
    chosen = _chosen(path, info, observations or own.get("observations"))
    numbers, lengths = layout.read_episodes(path, info.version)
    ends = _ends_told(path, info)
    columns = _columns(path, info, [*chosen, "action", *ends])
    last = _last_frames(path, numbers, lengths, columns)
    told = {key: columns[key].reshape(-1) for key in ends}
    ended, stops = _ends(told, last)
    frames = Frames(
        observations={
            short: columns[key] if own else as_floats(str(path), key, columns[key]) for key, short in chosen.items()
        },
        actions=as_floats(str(path), "action", columns["action"]),
        last=last,
        ended=ended,
        stops=stops,
        rewards=told.get("next.reward"),
        told={key.removeprefix("next."): told[key] for key in ("next.reward", "next.success") if key in told},
        names={
            **{short: info.features[key].names for key, short in chosen.items()},
            "action": info.features["action"].names,
        },
    )
    arrays = transitions(str(path), frames, reward)
    if own:
        # An exported episode of T transitions has T + 1 frames; some are recordings that stop in mid-episode.
        arrays["terminals"][np.cumsum(lengths - 1)[own["open_episodes"]] - 1] = 0
        action_space = action_space or own["action_space"]
    require_bounds(str(path), frames.actions, action_space)
    if own and observations is None:
        observation_space = observation_space or own["observation_space"]
        if isinstance(observation_space, spaces.Dict) and len(chosen) == 1:
            (key,) = chosen.values()
            arrays |= {name: {key: arrays[name]} for name in ("observations", "next_observations")}
    return OfflineReplayBuffer.from_arrays(
        arrays,
        observation_space=observation_space,
        action_space=action_space,
        device=device,
        source=str(path),
        metadata={
            **own.get("metadata", {}),
            "format": f"LeRobot {info.version}",
            **info.facts,
            "tasks": layout.read_tasks(path, info.version),
            "observations": list(chosen),
            **({} if reward is None else {"reward": reward}),
        },
    )


def _own(path: Path) -> dict[str, Any]:
    """What :func:`~dipole_sb3.datasets.lerobot.export` noted: nothing of a set that LeRobot wrote."""
    file = path / layout.OWN
    if not file.exists():
        return {}
    told = layout.read_json(file, "what dipole data convert noted of the set")
    try:
        return {
            **{key: described_spaces.restore(told[key]) for key in ("observation_space", "action_space")},
            "observations": {str(key): str(short) for key, short in told["observations"].items()},
            "metadata": dict(told["metadata"]),
            "open_episodes": np.asarray(told["open_episodes"], np.int64),
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{file}: damaged or incomplete ({type(error).__name__}: {error})") from error


def _chosen(path: Path, info: Info, wanted: Sequence[str] | Mapping[str, str] | None) -> dict[str, str]:
    """Features that are the observation → their keys in a Dict, in order."""
    numeric = [key for key, feature in info.features.items() if feature.is_numeric and key.startswith("observation")]
    if wanted is None:
        wanted = numeric
    for key in wanted:
        feature = info.features.get(key)
        if feature is not None and not feature.is_numeric:
            raise refuse_images(str(path), key, f"of type {feature.dtype}", numeric)
    require_features(str(path), list(info.features), list(wanted))
    if isinstance(wanted, Mapping):
        return dict(wanted)
    # Dots are not allowed in the names of a network's parts.
    chosen = {key: key.removeprefix(_PREFIX).replace(".", "_") for key in wanted}
    if len(set(chosen.values())) < len(chosen):
        raise DatasetError(f"{path}: two of {', '.join(chosen)} have the same name where dots are not allowed")
    return chosen


def _ends_told(path: Path, info: Info) -> list[str]:
    """Features that tell rewards and ends."""
    found = [key for key in _ENDS if key in info.features]
    for key in found:
        if info.features[key].shape not in ((1,), ()):
            raise DatasetError(f"{path}: {key} has shape {list(info.features[key].shape)}, expected one number a frame")
    return found


def _columns(path: Path, info: Info, wanted: Sequence[str]) -> dict[str, np.ndarray]:
    """Features of all frames, [T, *shape] each, in the types of the files."""
    files = sorted((path / "data").glob("*/*.parquet"))
    if not files:
        raise DatasetError(f"{path / 'data'}: holds no parquet file; expected the frames of a LeRobot data set")
    names = [*wanted, "episode_index", "frame_index"]
    for key in names:
        if key not in info.features:
            raise DatasetError(f"{path / layout.INFO}: has no feature {key}; found {', '.join(info.features)}")
    parts: dict[str, list[np.ndarray]] = {key: [] for key in names}
    for file in files:
        table = layout.read_table(file, names)
        for key in names:
            parts[key].append(_column(file, key, table[key], info.features[key]))
    found = {key: np.concatenate(arrays) for key, arrays in parts.items()}
    if len(found["frame_index"]) != info.frames:
        raise DatasetError(
            f"{path}: its files hold {len(found['frame_index'])} frames, its {layout.INFO} tells {info.frames}"
        )
    return found


def _column(file: Path, key: str, column: Any, feature: Feature) -> np.ndarray:
    """A column of numbers, or of lists of numbers of the same length, as an array [rows, *shape]."""
    import pyarrow

    values = column.combine_chunks()
    if isinstance(values, pyarrow.ChunkedArray):  # of an empty column
        values = pyarrow.concat_arrays(values.chunks) if values.num_chunks else pyarrow.array([], values.type)
    rows = len(values)
    shape: tuple[int, ...] = (rows,)
    while True:
        if isinstance(values, pyarrow.ExtensionArray):
            values = values.storage
        if values.null_count:
            raise DatasetError(f"{file}: {key} has {values.null_count} missing values, expected none")
        if not (
            pyarrow.types.is_list(values.type)
            or pyarrow.types.is_large_list(values.type)
            or pyarrow.types.is_fixed_size_list(values.type)
        ):
            break
        lengths = np.unique(values.value_lengths().to_numpy(zero_copy_only=False)).tolist()
        if len(lengths) > 1:
            raise DatasetError(
                f"{file}: {key} has rows of {' and '.join(map(str, lengths))} numbers, expected {list(feature.shape)}"
            )
        shape, values = (*shape, *lengths), values.flatten()
    try:
        array = values.to_numpy(zero_copy_only=False).reshape(shape)
    except ValueError as error:
        raise DatasetError(f"{file}: {key} cannot be read as numbers of one shape ({error})") from error
    if array.dtype.kind not in "buif":
        raise DatasetError(f"{file}: {key} has type {values.type}, expected numbers")
    # One number a frame is written as a number, or as a list of one.
    array = array.reshape(rows, 1) if feature.shape == (1,) and array.shape == (rows,) else array
    if array.shape[1:] != feature.shape:
        raise DatasetError(
            f"{file}: {key} has shape {list(array.shape[1:])} in every row, expected {list(feature.shape)} as "
            f"{layout.INFO} tells"
        )
    return array  # type: ignore[no-any-return]


def _last_frames(path: Path, numbers: np.ndarray, lengths: np.ndarray, columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Where episodes end, [T] of bool.

    :raises DatasetError: the frames are not those that the episode table tells.
    """
    episodes, frames = (columns[key].reshape(-1) for key in ("episode_index", "frame_index"))
    total = int(lengths.sum())
    if total != len(frames):
        raise DatasetError(f"{path}: its files hold {len(frames)} frames, its table of episodes tells {total}")
    ends = np.cumsum(lengths)
    expected = np.repeat(numbers, lengths), np.arange(total) - np.repeat(ends - lengths, lengths)
    wrong = (episodes != expected[0]) | (frames != expected[1])
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DatasetError(
            f"{path}: row {row} is frame {frames[row]} of episode {episodes[row]}, expected frame "
            f"{expected[1][row]} of episode {expected[0][row]}, as the table of episodes tells"
        )
    last = np.zeros(total, bool)
    last[ends - 1] = True
    return last


def _ends(told: Mapping[str, np.ndarray], last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where transitions ended episodes, and where they did for good, [T] of bool each."""
    nowhere = np.zeros(len(last), bool)
    truncated, success = (told[key] != 0 if key in told else nowhere for key in ("next.truncated", "next.success"))
    done = (told["next.done"] != 0) if "next.done" in told else success & last
    stops = done & ~truncated
    if "next.success" in told:
        stops &= success
    return done | truncated, stops
