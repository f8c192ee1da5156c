"""LeRobot's frames as transitions."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from dipole_sb3.buffers import image_layout, recorded_arrays
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common import checks, described_spaces
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.observations import mapped, together
from dipole_sb3.datasets.frames import Frames, as_floats, places, require_bounds, require_features, transitions
from dipole_sb3.datasets.image_sizes import require_image_size, resized_space
from dipole_sb3.datasets.lerobot import layout, pictures
from dipole_sb3.datasets.lerobot.layout import Feature, Info

_PREFIX = "observation."
_ENDS = ("next.reward", "next.done", "next.truncated", "next.success")


@dataclass(frozen=True)
class Recording:
    """A data set whose numbers have been read, and whose images are decoded as they are needed.

    :param source: its path.
    :param arrays: the transitions without images, as :func:`~dipole_sb3.datasets.frames.transitions` gives them.
    :param images: of the frames, by their keys in an observation; empty where none were asked for.
    :param kept: frame at which each transition begins, int64 [T].
    :param then: frame that it leads to, likewise.
    """

    source: str
    arrays: dict[str, Any]
    images: Mapping[str, Callable[[], Iterator[np.ndarray]]]
    kept: np.ndarray
    then: np.ndarray
    observation_space: spaces.Space[Any]
    action_space: spaces.Box
    metadata: dict[str, Any]

    def blocks(self) -> Iterator[dict[str, Any]]:
        """The transitions, some at a time, with their images: every frame is decoded once.

        :raises DatasetError: an image or a video that is missing or damaged.
        """
        if not self.images:
            yield self.arrays
            return
        windows = {key: pictures.Window(frames()) for key, frames in self.images.items()}
        own: Any = self.observation_space
        alone = not isinstance(own, spaces.Dict)
        row_bytes = sum(int(np.prod((own if alone else own[key]).shape)) for key in windows)
        # A block holds its images four times: as they come, together, as s and as s'.
        count = image_layout.rows_per_block(4 * row_bytes)
        for start in range(0, len(self.kept), count):
            rows = slice(start, start + count)
            kept, then = self.kept[rows], self.then[rows]
            shown = {key: window.between(kept[0], then[-1] + 1) for key, window in windows.items()}
            block = {key: mapped(lambda array, rows=rows: array[rows], value) for key, value in self.arrays.items()}
            for name, frames in (("observations", kept), ("next_observations", then)):
                seen = {key: images[frames - kept[0]] for key, images in shown.items()}
                block[name] = next(iter(seen.values())) if alone else {**block[name], **seen}
            yield block


def load(
    path: str | os.PathLike[str],
    *,
    device: torch.device | str = "auto",
    reward: str | None = None,
    observations: Sequence[str] | None = None,
    image_size: tuple[int, int] | None = None,
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Box | None = None,
) -> OfflineReplayBuffer:
    """A LeRobot data set (v2.1 or v3.0) in memory, its images and videos decoded where ``observations`` names them.

    A frame's next observation is the next frame's. Nobody knows the one after an episode's last frame: that frame is
    left out, and the episode ends one frame earlier, by time, unless it ended for good there. ``next.done`` tells where
    an episode ended; for good, unless ``next.truncated`` or a ``next.success`` of 0 say otherwise. Without
    ``next.done``, ``next.success`` at the last frame is a real end.

    :param path: the folder, with ``meta/info.json``.
    :param device: where batches will be drawn.
    :param reward: an expression over ``observation[i]``, ``action[i]`` and ``next_observation[i]``, also by the names
        that the set gives to the elements, and over ``reward[0]`` and ``success[0]`` where it has ``next.reward`` and
        ``next.success``. Several observations are one vector, whose elements are also ``observation["state.0"]``;
        images are no part of it. None: ``next.reward``.
    :param observations: features, in this order; one is an array, several are a Dict whose keys lack ``observation.``.
        None: all that begin with ``observation`` and are numbers.
    :param image_size: (height, width) to which images are resized, antialiased (Pillow's bilinear filter); None: as
        they are stored.
    :param observation_space: checked against; inferred from the data when None.
    :param action_space: bounds of the actions; [−1, 1] when None.
    :return: a buffer whose metadata has ``fps``, ``robot_type`` and ``tasks``.
    :raises DatasetError: a missing or damaged file, another version, a missing feature, frames that are not those of
        the episode table or of the videos, or no rewards.
    :raises ImportError: pyarrow is not installed; or, for videos, PyAV.
    """
    found = read(
        path,
        reward=reward,
        observations=observations,
        image_size=image_size,
        observation_space=observation_space,
        action_space=action_space,
    )
    return OfflineReplayBuffer.from_arrays(
        _in_memory(found),
        observation_space=found.observation_space,
        action_space=found.action_space,
        device=device,
        source=found.source,
        metadata=found.metadata,
    )


def _in_memory(found: Recording) -> dict[str, Any]:
    """All blocks as one, in arrays that are allocated once."""
    if not found.images:
        return found.arrays
    whole: dict[str, Any] = {}
    start = 0
    for block in found.blocks():
        if not whole:
            whole = {
                key: mapped(lambda part: np.empty((len(found.kept), *part.shape[1:]), part.dtype), value)
                for key, value in block.items()
            }
        rows = slice(start, start + len(block["actions"]))
        for key, value in block.items():
            for target, part in together(whole[key], value):
                target[rows] = part
        start = rows.stop
    return whole


def read(
    path: str | os.PathLike[str],
    *,
    reward: str | None = None,
    observations: Sequence[str] | None = None,
    image_size: tuple[int, int] | None = None,
    observation_space: spaces.Space[Any] | None = None,
    action_space: spaces.Box | None = None,
) -> Recording:
    """The same without decoding anything yet; arguments and errors are those of :func:`load`."""
    require_image_size(image_size)
    path = Path(path)
    info = layout.read_info(path)
    own = _own(path)
    chosen = _chosen(path, info, observations or own.get("observations"))
    visual = {key: short for key, short in chosen.items() if info.features[key].dtype in layout.VISUAL}
    numeric = {key: short for key, short in chosen.items() if key not in visual}
    numbers, lengths = layout.read_episodes(path, info.version)
    ends = _ends_told(path, info)
    timed = ["timestamp"] if any(info.features[key].dtype == "video" for key in visual) else []
    columns = _columns(path, info, [*numeric, "action", *ends, *timed])
    last = _last_frames(path, numbers, lengths, columns)
    told = {key: columns[key].reshape(-1) for key in ends}
    ended, stops = _ends(told, last)
    frames = Frames(
        observations={
            short: columns[key] if own else as_floats(str(path), key, columns[key]) for key, short in numeric.items()
        },
        actions=as_floats(str(path), "action", columns["action"]),
        last=last,
        ended=ended,
        stops=stops,
        rewards=told.get("next.reward"),
        told={key.removeprefix("next."): told[key] for key in ("next.reward", "next.success") if key in told},
        names={
            **{short: info.features[key].names for key, short in numeric.items()},
            "action": info.features["action"].names,
        },
    )
    arrays = transitions(str(path), frames, reward)
    kept, then, _ = places(frames)
    if own:
        # An exported episode of T transitions has T + 1 frames; some are recordings that stop in mid-episode.
        arrays["terminals"][np.cumsum(lengths - 1)[own["open_episodes"]] - 1] = 0
        action_space = action_space or own["action_space"]
    require_bounds(str(path), frames.actions, action_space)
    if own and observations is None:
        observation_space = observation_space or resized_space(own["observation_space"], image_size if visual else None)
        if isinstance(observation_space, spaces.Dict) and len(chosen) == 1 and numeric:
            (key,) = chosen.values()
            arrays |= {name: {key: arrays[name]} for name in ("observations", "next_observations")}
    images = {short: _pictures(path, info, key, image_size, numbers, lengths, columns) for key, short in visual.items()}
    shown = {
        short: pictures.space_of(f"{path}: {key}", info.features[key], image_size) for key, short in visual.items()
    }
    if len(numeric) == 1 and visual:
        (short,) = numeric.values()
        arrays |= {name: {short: arrays[name]} for name in ("observations", "next_observations")}
    known = _spaces(str(path), arrays, shown, len(chosen) == 1, observation_space, action_space)
    return Recording(
        str(path),
        arrays,
        images,
        kept,
        then,
        *known,
        {
            **own.get("metadata", {}),
            "format": f"LeRobot {info.version}",
            **info.facts,
            "tasks": layout.read_tasks(path, info.version),
            "observations": list(chosen),
            **({} if reward is None else {"reward": reward}),
            **({} if image_size is None or not visual else {"image_size": list(image_size)}),
        },
    )


def _spaces(
    source: str,
    arrays: Mapping[str, Any],
    images: Mapping[str, spaces.Box],
    alone: bool,
    observation_space: spaces.Space[Any] | None,
    action_space: spaces.Box | None,
) -> tuple[spaces.Space[Any], spaces.Box]:
    """The spaces, inferred where they are not given.

    :param images: those of the images, by key.
    :param alone: whether the observation is one array.
    """
    if observation_space is None and images:
        if alone:
            (observation_space,) = images.values()
        else:
            numbers = checks.infer_observation_space(source, arrays["observations"], arrays["next_observations"])
            assert isinstance(numbers, spaces.Dict)
            observation_space = spaces.Dict({**numbers.spaces, **images})
    return recorded_arrays.spaces_of(source, arrays, observation_space, action_space)


def _pictures(
    path: Path,
    info: Info,
    key: str,
    image_size: tuple[int, int] | None,
    numbers: np.ndarray,
    lengths: np.ndarray,
    columns: Mapping[str, np.ndarray],
) -> Callable[[], Iterator[np.ndarray]]:
    """What decodes the frames of a feature, from the first on."""
    feature = info.features[key]
    if feature.dtype == "image":
        return partial(pictures.images, path, key, feature, image_size)
    times = np.split(columns["timestamp"].reshape(-1).astype(np.float64), np.cumsum(lengths)[:-1])
    files = layout.read_videos(path, info, key, numbers)
    episodes = [(file, begin + of_episode) for (file, begin), of_episode in zip(files, times, strict=True)]
    return partial(pictures.videos, path, key, feature, image_size, episodes)


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
    visual = [key for key, feature in info.features.items() if feature.dtype in layout.VISUAL]
    if wanted is None:
        wanted = numeric
    if not wanted and visual:
        raise DatasetError(
            f"{path}: has no observations but images, which are read where they are named; expected observations among "
            f"{', '.join(visual)}"
        )
    for key in wanted:
        feature = info.features.get(key)
        if feature is not None and not feature.is_numeric and key not in visual:
            raise DatasetError(
                f"{path}: {key} is of type {feature.dtype}, expected observations among "
                f"{', '.join([*numeric, *visual])}"
            )
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
    files = layout.data_files(path)
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
