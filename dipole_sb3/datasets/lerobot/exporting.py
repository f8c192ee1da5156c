"""A buffer's transitions as a LeRobot data set, v3.0."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common import checks, described_spaces
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets.episodes import Episode, episodes
from dipole_sb3.datasets.folders import replaced_folder
from dipole_sb3.datasets.lerobot import layout

_VERSION = "v3.0"
_FILE_BYTES = 100 * 2**20
"""After which frames go to another file; LeRobot's own limit."""
_FILES_IN_A_FOLDER = 1000


def export(
    buffer: OfflineReplayBuffer,
    path: Path,
    *,
    fps: float | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Writes all transitions as a LeRobot data set, whole or not at all; memory holds an episode of them.

    An episode of T transitions has T + 1 frames, so that the last observation is kept, too; the last frame repeats the
    action before it, with a reward of 0 and ``next.truncated``. Actions are in the environment's units. What LeRobot
    has no place for, spaces above all, lies in ``meta/dipole.json``: :func:`dipole_sb3.datasets.lerobot.load` makes the
    same transitions of the set again, bit for bit.

    :param buffer: of any kind, without images.
    :param path: of the folder.
    :param fps: frames a second; None: as the metadata tell by ``fps`` or ``rate_hz``.
    :param metadata: to keep with the set; the buffer's own when None.
    :param overwrite: replace a LeRobot data set that has this name.
    :raises DatasetError: the name is taken, nothing tells the frames a second, or the observations have images.
    :raises ImportError: pyarrow is not installed.
    :raises OSError: the folder cannot be written.
    """
    metadata = dict(buffer.metadata if metadata is None else metadata)
    fps = _fps(buffer.source, fps, metadata)
    features = _features(buffer)
    with replaced_folder(path, layout.INFO, overwrite) as folder:
        writer = _Writer(folder, fps, features, _task(metadata))
        for episode in episodes(buffer):
            writer.add(episode)
        writer.finish(buffer, metadata)


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


def _features(buffer: OfflineReplayBuffer) -> dict[str | None, tuple[str, tuple[int, ...]]]:
    """Key of the observation → its feature's name, and the shape of a frame."""
    space = buffer.observation_space
    parts: Iterable[tuple[str | None, spaces.Space[Any]]] = [(None, space)]
    if isinstance(space, spaces.Dict):
        parts = space.spaces.items()
    found: dict[str | None, tuple[str, tuple[int, ...]]] = {}
    for key, part in parts:
        if checks.stores_as(part) == np.uint8:
            raise DatasetError(
                f"{buffer.source}: its observations have images{'' if key is None else f' ({key})'}, which are not "
                "written to LeRobot's format yet"
            )
        name = "observation.state" if key is None else f"observation.{key.replace('/', '.')}"
        if name in [known for known, _ in found.values()]:
            raise DatasetError(f"{buffer.source}: two of its observations would be called {name}")
        found[key] = name, part.shape or (1,)
    return found


class _Writer:
    """Frames in files of limited size, and the tables beside them."""

    def __init__(
        self,
        folder: Path,
        fps: float,
        features: Mapping[str | None, tuple[str, tuple[int, ...]]],
        task: str,
    ) -> None:
        self._folder, self._fps, self._features, self._task = folder, fps, features, task
        self._files: list[int] = []
        self._lengths: list[int] = []
        self._open: list[int] = []
        self._frames, self._file, self._bytes = 0, 0, 0
        self._parquet: Any = None
        self._statistics: dict[str, _Statistics] = {}
        self._described: dict[str, dict[str, Any]] = {}

    def add(self, episode: Episode) -> None:
        """Writes one episode."""
        number, length = len(self._files), len(episode.rewards) + 1
        done, truncated = np.zeros((2, length, 1), bool)
        done[-2], truncated[-2] = episode.ended, episode.ended and episode.by_time
        done[-1] = truncated[-1] = True
        frames = np.arange(length)[:, None]
        columns = {
            **{
                name: episode.observations[key].reshape(length, *shape) for key, (name, shape) in self._features.items()
            },
            "action": np.concatenate([episode.actions, episode.actions[-1:]]),
            "next.reward": np.append(episode.rewards, np.float32(0))[:, None],
            "next.done": done,
            "next.truncated": truncated,
            "timestamp": (frames / self._fps).astype(np.float32),
            "frame_index": frames,
            "episode_index": np.full_like(frames, number),
            "index": self._frames + frames,
            "task_index": np.zeros_like(frames),
        }
        for name, values in columns.items():
            described = {"dtype": values.dtype.name, "shape": list(values.shape[1:]), "names": None}
            self._described.setdefault(name, described)
            self._statistics.setdefault(name, _Statistics()).update(values)
        self._write(columns)
        self._files.append(self._file)
        self._lengths.append(length)
        self._frames += length
        if not episode.ended:
            self._open.append(number)

    def _write(self, columns: Mapping[str, np.ndarray]) -> None:
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({name: _as_column(values) for name, values in columns.items()})
        if self._parquet is not None and self._bytes + table.nbytes > _FILE_BYTES:
            self._parquet.close()
            self._parquet, self._file, self._bytes = None, self._file + 1, 0
        if self._parquet is None:
            chunk, number = divmod(self._file, _FILES_IN_A_FOLDER)
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
        files, lengths = np.asarray(self._files, np.int64), np.asarray(self._lengths, np.int64)
        episode_table = pyarrow.table(
            {
                "episode_index": np.arange(len(files)),
                "tasks": [[self._task]] * len(files),
                "length": lengths,
                "dataset_from_index": np.cumsum(lengths) - lengths,
                "dataset_to_index": np.cumsum(lengths),
                "data/chunk_index": files // _FILES_IN_A_FOLDER,
                "data/file_index": files % _FILES_IN_A_FOLDER,
                "meta/episodes/chunk_index": np.zeros_like(files),
                "meta/episodes/file_index": np.zeros_like(files),
            }
        )
        for name, table in ((layout.EPISODES, episode_table), (layout.TASKS, _task_table(self._task))):
            (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(table, self._folder / name)
        self._write_json(layout.STATS, {name: found.finish() for name, found in self._statistics.items()})
        self._write_json(
            layout.OWN,
            {
                "observation_space": described_spaces.describe(buffer.observation_space),
                "action_space": described_spaces.describe(buffer.action_space),
                "observations": {name: key or "state" for key, (name, _) in self._features.items()},
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
                "chunks_size": _FILES_IN_A_FOLDER,
                "data_files_size_in_mb": _FILE_BYTES // 2**20,
                "video_files_size_in_mb": 200,
                "fps": self._fps,
                "splits": {"train": f"0:{len(self._files)}"},
                "data_path": layout.DATA,
                "video_path": None,
                "features": self._described,
            },
        )

    def _write_json(self, name: str, content: Mapping[str, Any]) -> None:
        text = json.dumps(content, indent=4, ensure_ascii=False)
        (self._folder / name).write_text(f"{text}\n", encoding="utf-8")


def _as_column(values: np.ndarray) -> Any:
    """[rows, *shape] as a parquet column: a number a row, or lists in lists."""
    import pyarrow

    if values.shape[1:] == (1,):
        return pyarrow.array(values[:, 0])
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


class _Statistics:
    """Range, mean and standard deviation of every element of a feature, as LeRobot normalises by them."""

    def __init__(self) -> None:
        self._count, self._sum, self._squares = 0, np.float64(0), np.float64(0)
        self._low, self._high = np.float64(np.inf), np.float64(-np.inf)

    def update(self, values: np.ndarray) -> None:
        exact: Any = values.astype(np.float64)
        self._count += len(exact)
        self._sum, self._squares = self._sum + exact.sum(axis=0), self._squares + np.square(exact).sum(axis=0)
        self._low, self._high = np.minimum(self._low, exact.min(axis=0)), np.maximum(self._high, exact.max(axis=0))

    def finish(self) -> dict[str, Any]:
        mean = self._sum / self._count
        deviation = np.sqrt(np.maximum(self._squares / self._count - mean**2, 0))
        found = {"min": self._low, "max": self._high, "mean": mean, "std": deviation}
        return {**{key: np.asarray(value).tolist() for key, value in found.items()}, "count": [self._count]}
