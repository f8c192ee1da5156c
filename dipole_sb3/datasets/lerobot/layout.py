"""Which files a LeRobot data set consists of, and what is in those beside the frames."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dipole_sb3.common.errors import DatasetError

INFO = "meta/info.json"
EPISODES = "meta/episodes/chunk-000/file-000.parquet"
TASKS = "meta/tasks.parquet"
STATS = "meta/stats.json"
DATA = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
OWN = "meta/dipole.json"
"""What an exported set remembers of its spaces; LeRobot does not look at it."""

VIDEO_OF_EPISODE = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
"""Of v2.1; in v3.0 several episodes share a file."""
VIDEO = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"

FILES_IN_A_FOLDER = 1000
"""That an exported set has."""

VERSIONS = ("v2.1", "v3.0")
VISUAL = ("image", "video")
IMAGE_AXES = ["height", "width", "channels"]
_IMAGES_AT_A_TIME = 64
COUNTERS = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Features that every set has."""


def is_one(path: Path) -> bool:
    """Whether a folder is a LeRobot data set, perhaps a damaged one."""
    if (path / INFO).is_file():
        return True
    return not (path / "dataset.json").exists() and (path / "meta").is_dir() and (path / "data").is_dir()


@dataclass(frozen=True)
class Feature:
    """A column of the frames.

    :param dtype: a NumPy type's name, ``string``, ``image`` or ``video``.
    :param shape: of one frame; numbers alone are (1,).
    :param names: of its elements; empty where they have none.
    """

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] = ()

    @property
    def is_numeric(self) -> bool:
        try:
            return np.dtype(self.dtype).kind in "buif"
        except TypeError:
            return False


@dataclass(frozen=True)
class Info:
    """What ``meta/info.json`` tells.

    :param version: the format's, one of :data:`VERSIONS`.
    :param frames: of all episodes.
    :param facts: ``fps`` and ``robot_type``.
    :param chunk: episodes (v2.1) that share a folder of videos.
    """

    version: str
    frames: int
    features: Mapping[str, Feature]
    facts: Mapping[str, Any]
    chunk: int


def read_info(path: Path) -> Info:
    """Reads and checks ``meta/info.json``.

    :param path: the data set's folder.
    :raises DatasetError: it is missing or damaged, or of a version that is not read.
    """
    file = path / INFO
    told = read_json(file, "a LeRobot data set's description")
    version = told.get("codebase_version")
    if version not in VERSIONS:
        raise DatasetError(f"{file}: codebase_version is {version!r}, expected {' or '.join(VERSIONS)}")
    try:
        features = {str(key): _feature(facts) for key, facts in told["features"].items()}
        return Info(
            version,
            int(told["total_frames"]),
            features,
            {key: told[key] for key in ("fps", "robot_type") if told.get(key) is not None},
            max(1, int(told.get("chunks_size", 1000))),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(
            f"{file}: damaged or incomplete ({type(error).__name__}: {error}); expected features with dtype and shape, "
            "and total_frames"
        ) from error


def _feature(facts: Mapping[str, Any]) -> Feature:
    shape = tuple(int(size) for size in facts["shape"])
    names = facts.get("names")
    if isinstance(names, dict) and len(names) == 1:  # as in {"motors": ["pan", "lift"]}
        (names,) = names.values()
    known = isinstance(names, list) and len(names) == math.prod(shape) and all(isinstance(name, str) for name in names)
    return Feature(str(facts["dtype"]), shape, tuple(names) if known and names else ())


def read_json(path: Path, what: str) -> dict[str, Any]:
    """A JSON object in a file.

    :param what: it is, for the message.
    :raises DatasetError: no such file, or something else in it.
    """
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file; expected {what}") from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); expected {what}") from error
    if not isinstance(told, dict):
        raise DatasetError(f"{path}: holds a JSON {type(told).__name__}; expected {what}")
    return told


def read_table(path: Path, columns: list[str]) -> Any:
    """Columns of a parquet file, as a pyarrow Table.

    :raises DatasetError: no such file, damaged, or without one of the columns.
    :raises ImportError: pyarrow is not installed.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            found = file.schema_arrow.names
            for column in columns:
                if column not in found:
                    raise DatasetError(f"{path}: has no column {column}; found {', '.join(found)}")
            return file.read(columns)
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file; expected a parquet file of a LeRobot data set") from error
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(
            f"{path}: not a complete parquet file ({' '.join(str(error).split())}); the file is damaged or truncated"
        ) from error


def data_files(path: Path) -> list[Path]:
    """The files of the frames, in order.

    :raises DatasetError: there are none.
    """
    files = sorted((path / "data").glob("*/*.parquet"))
    if not files:
        raise DatasetError(f"{path / 'data'}: holds no parquet file; expected the frames of a LeRobot data set")
    return files


def read_encoded(path: Path, column: str) -> Iterator[bytes | None]:
    """What an image column of a parquet file holds, row by row, a few rows in memory at a time.

    :raises DatasetError: no such column, or a damaged file.
    """
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            if column not in file.schema_arrow.names:
                raise DatasetError(f"{path}: has no column {column}; found {', '.join(file.schema_arrow.names)}")
            kind = file.schema_arrow.field(column).type
            if not pyarrow.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
                raise DatasetError(f"{path}: {column} has type {kind}, expected the bytes of images")
            for batch in file.iter_batches(_IMAGES_AT_A_TIME, columns=[column]):
                yield from batch[0].field("bytes").to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DatasetError(
            f"{path}: not a complete parquet file ({' '.join(str(error).split())}); the file is damaged or truncated"
        ) from error


def read_videos(path: Path, info: Info, key: str, numbers: np.ndarray) -> list[tuple[Path, float]]:
    """Of every episode the file of a video, and the time in it at which the episode begins, in seconds.

    :param numbers: of :func:`read_episodes`.
    :raises DatasetError: the table of episodes does not tell, or is damaged.
    """
    if info.version == "v2.1":
        chunks = [(number // info.chunk, number) for number in numbers.tolist()]
        return [
            (path / VIDEO_OF_EPISODE.format(episode_chunk=chunk, video_key=key, episode_index=number), 0.0)
            for chunk, number in chunks
        ]
    names = [f"videos/{key}/{name}" for name in ("chunk_index", "file_index", "from_timestamp")]
    found: list[tuple[Path, float]] = []
    for file in sorted((path / "meta/episodes").glob("*/*.parquet")):
        table = read_table(file, names)
        for chunk, number, begin in zip(*(table[name].to_pylist() for name in names), strict=True):
            if not isinstance(chunk, int) or not isinstance(number, int) or not isinstance(begin, float):
                raise DatasetError(f"{file}: does not tell where the video {key} of an episode is")
            found.append((path / VIDEO.format(video_key=key, chunk_index=chunk, file_index=number), begin))
    return found


def read_episodes(path: Path, version: str) -> tuple[np.ndarray, np.ndarray]:
    """The episode table: number and length in frames of every episode, int64 [episodes] each.

    :raises DatasetError: it is missing or damaged.
    """
    if version == "v2.1":
        file = path / "meta/episodes.jsonl"
        pairs = [(_whole(file, row, "episode_index"), _whole(file, row, "length")) for row in _json_lines(file)]
        numbers, lengths = (np.array([pair[place] for pair in pairs], np.int64) for place in (0, 1))
    else:
        files = sorted((path / "meta/episodes").glob("*/*.parquet"))
        if not files:
            raise DatasetError(f"{path / 'meta/episodes'}: holds no parquet file; expected the table of episodes")
        tables = [read_table(file, ["episode_index", "length"]) for file in files]
        numbers, lengths = (
            np.concatenate([table[key].to_numpy() for table in tables]).astype(np.int64)
            for key in ("episode_index", "length")
        )
    if len(numbers) == 0 or (lengths < 1).any():
        raise DatasetError(f"{path}: its table of episodes has none, or one without frames")
    return numbers, lengths


def read_tasks(path: Path, version: str) -> list[str]:
    """What the robot was told to do, in words; the n-th of them is meant by ``task_index`` n."""
    if version == "v2.1":
        file = path / "meta/tasks.jsonl"
        found = {_whole(file, row, "task_index"): str(row.get("task", "")) for row in _json_lines(file)}
    else:
        # The words are the table's index, whose column is called in one way or the other.
        import pyarrow.parquet

        table = read_table(path / TASKS, ["task_index"])
        names = [name for name in pyarrow.parquet.read_schema(path / TASKS).names if name != "task_index"]
        words = read_table(path / TASKS, names[:1])[0].to_pylist() if names else [""] * len(table)
        found = dict(zip(table["task_index"].to_pylist(), map(str, words), strict=True))
    return [found[index] for index in sorted(found)]


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except FileNotFoundError as error:
        raise DatasetError(f"{path}: no such file; expected a table of a LeRobot data set") from error
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path}: cannot be read ({error}); the file is damaged or truncated") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DatasetError(f"{path}: expected one JSON object a line")
    yield from rows


def _whole(path: Path, row: Mapping[str, Any], key: str) -> int:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int):
        raise DatasetError(f"{path}: {key} is {value!r}, expected a whole number")
    return value
