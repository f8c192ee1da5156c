"""A buffer's transitions as a LeRobot data set, v3.0."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common import described_spaces
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.frame_stack import channel_axis, image_parts
from dipole_sb3.common.observations import space_parts
from dipole_sb3.datasets.episodes import Piece, pieces
from dipole_sb3.datasets.folders import replaced_folder
from dipole_sb3.datasets.lerobot import encoding, layout
from dipole_sb3.datasets.lerobot.feature_statistics import OfImages, OfNumbers

_VERSION = "v3.0"
_FILE_BYTES = 100 * 2**20
"""After which an episode begins another file; LeRobot's own limit."""


def export(
    buffer: OfflineReplayBuffer,
    path: Path,
    *,
    fps: float | None = None,
    use_videos: bool = True,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes all transitions as a LeRobot data set, whole or not at all; memory holds a block of them at a time.

    An episode of T transitions has T + 1 frames, so that the last observation is kept, too; the last frame repeats the
    action before it, with a reward of 0 and ``next.truncated``. Actions are in the environment's units. What LeRobot
    has no place for, spaces above all, lies in ``meta/dipole.json``: :func:`dipole_sb3.datasets.lerobot.load` makes the
    same transitions of the set again, bit for bit, but for what videos lose of images.

    :param buffer: of any kind; images are uint8, of one frame each. One that is all of the observation becomes
        ``observation.image``, the one under a key ``observation.images.KEY``.
    :param path: of the folder.
    :param fps: frames a second; None: as the metadata tell by ``fps`` or ``rate_hz``.
    :param use_videos: images as videos, small and lossy, encoded as LeRobot does (AV1, 4:2:0, CRF 30); False: as PNG
        files in the table of frames, lossless.
    :param metadata: to keep with the set; the buffer's own when None.
    :param overwrite: replace a LeRobot data set that has this name.
    :raises DatasetError: the name is taken, nothing tells the frames a second, or images have a size, channels or a
        rate that LeRobot or the videos do not have.
    :raises ImportError: pyarrow is not installed; or, for images, Pillow or PyAV.
    :raises OSError: the folder cannot be written.
    """
    metadata = dict(buffer.metadata if metadata is None else metadata)
    fps = _fps(buffer.source, fps, metadata)
    features = _features(buffer, use_videos, fps)
    with (
        replaced_folder(path, layout.INFO, overwrite) as folder,
        closing(_Writer(folder, fps, features, _task(metadata))) as writer,
    ):
        # Whether an episode fits into a file of videos, it must tell beforehand.
        lengths = _lengths(buffer) if writer.videos else []
        for piece in pieces(buffer):
            writer.add(piece, lengths)
        writer.finish(buffer, metadata)


def _lengths(buffer: OfflineReplayBuffer) -> list[int]:
    """The episodes' frames."""
    lengths, frames = [], 0
    for piece in pieces(buffer):
        frames += len(piece.rewards)
        if piece.last:
            lengths.append(frames + 1)
            frames = 0
    return lengths


def _fps(source: str, fps: float | None, metadata: Mapping[str, Any]) -> float:
    told = fps if fps is not None else metadata.get("fps", metadata.get("rate_hz"))
    if told is None:
        raise DatasetError(f"{source}: nothing tells how many frames a second there are; expected fps to be given")
    if isinstance(told, bool) or not isinstance(told, int | float) or not 0 < told < float("inf"):
        raise ValueError(f"fps is {told!r}, expected a positive number")
    return int(told) if told == int(told) else told


def _task(metadata: Mapping[str, Any]) -> str:
    """What the robot was to do, in words; LeRobot wants some."""
    tasks = metadata.get("tasks")
    if isinstance(tasks, list) and len(tasks) == 1:
        return str(tasks[0])
    return str(metadata.get("env_id") or "unknown task")


@dataclass(frozen=True)
class _Feature:
    """What becomes of an observation.

    :param shape: of a frame; of an image height, width and channels.
    :param kind: ``image``, ``video`` or, of numbers, None.
    :param channels_first: whether the image is observed so.
    """

    name: str
    shape: tuple[int, ...]
    kind: str | None = None
    channels_first: bool = False

    def frames(self, values: np.ndarray) -> np.ndarray:
        """Observations [rows, …] in this shape."""
        if self.kind is not None:
            return np.moveaxis(values, 1, -1) if self.channels_first else values
        return values.reshape(len(values), *self.shape)


def _features(buffer: OfflineReplayBuffer, use_videos: bool, fps: float) -> dict[str | None, _Feature]:
    """What becomes of the observation under each key."""
    found: dict[str | None, _Feature] = {}
    images = image_parts(buffer.observation_space)
    for key, part in space_parts(buffer.observation_space).items():
        if key in images and part.dtype == np.uint8:
            feature = _image(buffer, key, images[key], "video" if use_videos else "image", fps)
        else:
            name = "observation.state" if key is None else f"observation.{key.replace('/', '.')}"
            feature = _Feature(name, part.shape or (1,))
        if feature.name in [known.name for known in found.values()]:
            raise DatasetError(f"{buffer.source}: two of its observations would be called {feature.name}")
        found[key] = feature
    return found


def _image(buffer: OfflineReplayBuffer, key: str | None, space: spaces.Box, kind: str, fps: float) -> _Feature:
    # As LeRobot's own sets call them; "images_front" is what loading makes of "observation.images.front".
    called = "image" if key is None else f"images.{key.removeprefix('images_').replace('/', '.')}"
    where = f"{buffer.source}: its image{'s' if key is None else f's {key}'}"
    channels_first = channel_axis(space) == -3
    height, width, channels = (*space.shape[1:], space.shape[0]) if channels_first else space.shape
    frame_stack = buffer.metadata.get("frame_stack")
    if frame_stack is not None or channels not in (1, 3):
        found = f"have {channels} channels" if frame_stack is None else f"are stacks of {frame_stack} frames"
        raise DatasetError(
            f"{where} {found}, expected 1 or 3 channels of one frame: LeRobot keeps single frames, and stacks them by "
            "delta_timestamps"
        )
    least = encoding.LEAST_SIDE
    if min(height, width) < least:
        raise DatasetError(f"{where} have {height}×{width} pixels, expected at least {least}×{least}")
    if kind == "video":
        lossless = "use_videos=False (--no-videos) keeps them as PNG files"
        if channels != 3:
            raise DatasetError(f"{where} have one channel, expected 3 for a video; {lossless}")
        if fps > encoding.MOST_FRAMES_A_SECOND:
            raise DatasetError(
                f"{where} come {fps:g} times a second, expected at most {encoding.MOST_FRAMES_A_SECOND} for a video; "
                f"{lossless}"
            )
    return _Feature(f"observation.{called}", (height, width, channels), kind, channels_first)


class _Writer:
    """Frames in files of limited size, and the tables beside them."""

    def __init__(self, folder: Path, fps: float, features: Mapping[str | None, _Feature], task: str) -> None:
        self._folder, self._fps, self._features, self._task = folder, fps, features, task
        self._files: list[int] = []
        self._lengths: list[int] = []
        self._open: list[int] = []
        self._frames, self._length, self._file, self._bytes = 0, 0, 0, 0
        self._parquet: Any = None
        # Of images or of numbers, by feature; those of finished episodes are the rows of a table.
        self._statistics: dict[str, Any] = {}
        self._of_episode: dict[str, Any] = {}
        self._of_episodes: dict[str, list[np.ndarray]] = {}
        self._described: dict[str, dict[str, Any]] = {}
        self.videos = {
            feature.name: encoding.Videos(folder, feature.name, feature.shape, fps)
            for feature in features.values()
            if feature.kind == "video"
        }

    def close(self) -> None:
        """Closes the videos that :meth:`finish` has not."""
        for video in self.videos.values():
            video.abandon()

    def add(self, piece: Piece, lengths: list[int]) -> None:
        """Writes some frames of an episode.

        :param lengths: of all episodes, where there are videos.
        """
        if self._length == 0:
            self._files.append(self._next_file())
            for video in self.videos.values():
                video.begin(lengths[len(self._lengths)])
        shown = {
            feature.name: (feature, feature.frames(piece.observations[key])) for key, feature in self._features.items()
        }
        columns = {name: values for name, (feature, values) in shown.items() if feature.kind is None}
        columns |= self._columns(piece)
        table = {}
        for name, values in columns.items():
            self._described.setdefault(
                name, {"dtype": values.dtype.name, "shape": list(values.shape[1:]), "names": None}
            )
            self._of_episode.setdefault(name, OfNumbers()).update(values)
            table[name] = _as_column(values)
        for name, (feature, values) in shown.items():
            if feature.kind == "image":
                described = {"dtype": "image", "shape": list(feature.shape), "names": layout.IMAGE_AXES}
                self._described.setdefault(name, described)
                table[name] = encoding.png_column(values, self._length)
            elif feature.kind == "video":
                self._described.setdefault(name, self.videos[name].description())
                self.videos[name].add(values)
            if feature.kind is not None:
                self._of_episode.setdefault(name, OfImages(feature.shape[-1])).update(values)
        self._write(table)
        rows = len(columns["index"])
        self._frames += rows
        self._length += rows
        if piece.last:
            self._end_episode(piece.ended)

    def _columns(self, piece: Piece) -> dict[str, np.ndarray]:
        """All but the observations of a piece, [frames, *shape] each; an episode's last one has a frame more."""
        length = len(piece.rewards) + piece.last
        actions, rewards = piece.actions, piece.rewards
        done, truncated = np.zeros((2, length, 1), bool)
        if piece.last:
            actions, rewards = np.concatenate([actions, actions[-1:]]), np.append(rewards, np.float32(0))
            done[-2], truncated[-2] = piece.ended, piece.ended and piece.by_time
            done[-1] = truncated[-1] = True
        rows = np.arange(length)[:, None]
        frames = self._length + rows
        return {
            "action": actions,
            "next.reward": rewards[:, None],
            "next.done": done,
            "next.truncated": truncated,
            "timestamp": (frames / self._fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full_like(frames, len(self._lengths)),
            "index": self._frames + rows,
            "task_index": np.zeros_like(frames),
        }

    def _end_episode(self, ended: bool) -> None:
        if not ended:
            self._open.append(len(self._lengths))
        self._lengths.append(self._length)
        self._length = 0
        for name, found in self._of_episode.items():
            for key, value in found.told().items():
                self._of_episodes.setdefault(f"stats/{name}/{key}", []).append(value)
            if name in self._statistics:
                self._statistics[name].add(found)
            else:
                self._statistics[name] = found
        self._of_episode = {}

    def _next_file(self) -> int:
        """Number of the file for the next episode, which is all in it."""
        if self._bytes >= _FILE_BYTES:
            self._parquet.close()
            self._parquet, self._file, self._bytes = None, self._file + 1, 0
        return self._file

    def _write(self, columns: Mapping[str, Any]) -> None:
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table(dict(columns))
        if self._parquet is None:
            chunk, number = divmod(self._file, layout.FILES_IN_A_FOLDER)
            file = self._folder / layout.DATA.format(chunk_index=chunk, file_index=number)
            file.parent.mkdir(parents=True, exist_ok=True)
            self._parquet = pyarrow.parquet.ParquetWriter(file, table.schema)
        self._parquet.write_table(table)
        self._bytes += table.nbytes

    def finish(self, buffer: OfflineReplayBuffer, metadata: Mapping[str, Any]) -> None:
        """Writes what is in ``meta``."""
        import pyarrow
        import pyarrow.parquet

        if self._parquet is None:
            raise DatasetError(f"{buffer.source}: no transitions to write")
        self._parquet.close()
        videos = {key: values for video in self.videos.values() for key, values in video.finish().items()}
        files, lengths = np.asarray(self._files, np.int64), np.asarray(self._lengths, np.int64)
        episode_table = pyarrow.table(
            {
                "episode_index": np.arange(len(files)),
                "tasks": [[self._task]] * len(files),
                "length": lengths,
                "dataset_from_index": np.cumsum(lengths) - lengths,
                "dataset_to_index": np.cumsum(lengths),
                "data/chunk_index": files // layout.FILES_IN_A_FOLDER,
                "data/file_index": files % layout.FILES_IN_A_FOLDER,
                **videos,
                **{name: _as_lists(np.stack(values)) for name, values in self._of_episodes.items()},
                "meta/episodes/chunk_index": np.zeros_like(files),
                "meta/episodes/file_index": np.zeros_like(files),
            }
        )
        for name, table in ((layout.EPISODES, episode_table), (layout.TASKS, _task_table(self._task))):
            (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(table, self._folder / name)
        statistics = {name: found.told() for name, found in self._statistics.items()}
        self._write_json(
            layout.STATS,
            {name: {key: value.tolist() for key, value in told.items()} for name, told in statistics.items()},
        )
        self._write_json(
            layout.OWN,
            {
                "observation_space": described_spaces.describe(buffer.observation_space),
                "action_space": described_spaces.describe(buffer.action_space),
                "observations": {feature.name: key or "state" for key, feature in self._features.items()},
                "open_episodes": self._open,
                "metadata": metadata,
            },
        )
        self._write_json(
            layout.INFO,
            {
                "codebase_version": _VERSION,
                "robot_type": metadata.get("robot_type"),
                "total_episodes": len(self._files),
                "total_frames": self._frames,
                "total_tasks": 1,
                "chunks_size": layout.FILES_IN_A_FOLDER,
                "data_files_size_in_mb": _FILE_BYTES // 2**20,
                "video_files_size_in_mb": encoding.VIDEO_BYTES // 2**20,
                "fps": self._fps,
                "splits": {"train": f"0:{len(self._files)}"},
                "data_path": layout.DATA,
                "video_path": layout.VIDEO if self.videos else None,
                "features": self._described,
            },
        )

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=4, ensure_ascii=False)
        (self._folder / name).write_text(f"{text}\n", encoding="utf-8")


def _as_column(values: np.ndarray) -> Any:
    """[rows, *shape] as a parquet column: a number a row, or lists in lists."""
    import pyarrow

    return pyarrow.array(values[:, 0]) if values.shape[1:] == (1,) else _as_lists(values)


def _as_lists(values: np.ndarray) -> Any:
    import pyarrow

    column = pyarrow.array(np.ascontiguousarray(values).reshape(-1))
    for size in reversed(values.shape[1:]):
        offsets = np.arange(len(column) // size + 1, dtype=np.int32) * size
        column = pyarrow.ListArray.from_arrays(pyarrow.array(offsets), column)
    return column


def _task_table(task: str) -> Any:
    """The table as pandas reads it, for LeRobot: the words are its index."""
    import pyarrow

    table = pyarrow.table({"task_index": np.zeros(1, np.int64), "task": [task]})
    types = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    columns = [
        {"name": name, "field_name": name, "pandas_type": one, "numpy_type": other, "metadata": None}
        for name, (one, other) in types.items()
    ]
    of_pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    return table.replace_schema_metadata({"pandas": json.dumps(of_pandas)})
