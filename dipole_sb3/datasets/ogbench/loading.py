"""OGBench's single-task data sets and environments."""

from __future__ import annotations

import gc
import json
import shlex
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from filelock import FileLock
from gymnasium import spaces
from gymnasium.wrappers import DtypeObservation
from numpy.typing import NDArray

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets.ogbench.generation import make_dataset
from dipole_sb3.datasets.ogbench.names import (
    SingleTask,
    data_directory,
    parse,
    require_known_behaviour,
    single_task_names,
)

__all__ = ["load", "make_dataset", "make_env", "single_task_names"]

_ROWS_AT_A_TIME = 65_536
_DOWNLOAD_TIMEOUT = 60.0
"""Seconds without a byte after which a download counts as failed."""


def load(
    name: str,
    *,
    dataset_dir: str | Path | None = None,
    device: torch.device | str = "auto",
    validation: bool = True,
    download: bool = True,
) -> OfflineReplayBuffer:
    """A single-task data set of OGBench, with exactly the arrays that ``ogbench.make_env_and_datasets`` returns.

    Rewards and masks come from ogbench itself: they look at the state *before* the action, success does not end an
    episode, and a mask is 0 only on full success. Loading takes at most about 1.3 times the
    memory of those arrays.

    :param name: for example ``cube-single-play-singletask-task2-v0``, or ``…-singletask-v0`` for the default task.
    :param dataset_dir: folder of the files; default ``$OGBENCH_DATA_DIR``, else ``~/.ogbench/data``.
    :param device: where batches will be drawn.
    :param validation: also read the ``-val`` file, into ``buffer.validation``.
    :param download: fetch missing files with ogbench's downloader.
    :returns: the buffer; its ``metadata`` names ``env_id``, ``source``, ``dataset_file``, ``episodes``, the version of
        ogbench and, for data made by ``dipole data make``, how it was made (``generated``).
    :raises DatasetError: unknown name, files that are missing, truncated or lack something, arrays of a wrong shape.
    """
    task = parse(name)
    directory = data_directory(dataset_dir)
    _provide_files(task, directory, validation, download)
    files = task.files(directory)[: 2 if validation else 1]
    with ExitStack() as stack:
        archives = [stack.enter_context(_Archive(file)) for file in files]
        splits = _label(archives, task)
        # ogbench's scene trees hold tens of megabytes in reference cycles: let them go before the large arrays come.
        gc.collect()
        buffers = [_load_split(split, task, device) for split in splits]
    if validation:
        buffers[0].validation = buffers[1]
    return buffers[0]


def make_env(name: str, *, success_timing: str = "post", **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """The environment of a single-task data set, with float32 observations as in the data (pixels stay uint8).

    On success_timing: rewards in the data look at the state before the action, s. Up to ogbench 1.1 the environments
    looked at the state after it, s'; since 1.2 they look at s by default. Published results on these tasks, and
    fine-tuning on top of them, were made with s', so ``"post"`` keeps to it under any ogbench. ``"pre"`` gives online
    transitions the data's own convention; success then counts one step later, and not at all in the very last one.

    :param name: as in :func:`load`.
    :param success_timing: ``"post"``: reward, termination and ``info["success"]`` look at s'; ``"pre"``: at s.
    :param kwargs: passed on to ``gymnasium.make`` (``max_episode_steps``, ``render_mode``, …).
    :raises DatasetError: unknown name.
    :raises ValueError: another success_timing, or ``"pre"`` where ogbench is older than 1.2.
    """
    task = parse(name)
    if success_timing not in ("pre", "post"):
        raise ValueError(f"success_timing is {success_timing!r}; expected 'pre' or 'post'")
    if "success_timing" in gymnasium.spec(task.env_id).kwargs:
        kwargs["success_timing"] = success_timing
    elif success_timing == "pre":
        raise ValueError(f"success_timing='pre' needs ogbench >= 1.2; found {version('ogbench')}")
    env: gymnasium.Env[Any, Any] = gymnasium.make(task.env_id, **kwargs)
    if env.observation_space.dtype == np.float64:
        env = DtypeObservation(env, np.float32)
    return env


# Files


def _provide_files(task: SingleTask, directory: Path, validation: bool, download: bool) -> None:
    """Makes sure that the needed files exist, downloading what is missing."""
    wanted = task.files(directory)[: 2 if validation else 1]
    if all(file.exists() for file in wanted):
        return
    require_known_behaviour(task)
    if not download:
        raise DatasetError(_absence(task, directory, wanted, "download=False was given"))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        # Of runs that start together one fetches the data set; the others wait here and then find it.
        with FileLock(directory / f".{task.dataset}.lock"):
            _download(task.dataset, directory, [file for file in wanted if not file.exists()])
    except OSError as error:  # urllib's errors are OSErrors too
        raise DatasetError(_absence(task, directory, wanted, f"the download failed: {error}")) from error


def _absence(task: SingleTask, directory: Path, wanted: tuple[Path, ...], reason: str) -> str:
    from ogbench.utils import DATASET_URL

    missing = " and ".join(file.name for file in wanted if not file.exists())
    by_hand = f"put {missing} from {DATASET_URL} into that folder"
    make = f"dipole data make ogbench/{task.recipe}"
    if directory != data_directory():
        make += f" --dir {shlex.quote(str(directory))}"
    way_out = f"run `{make}`, or {by_hand}" if task.recipe else by_hand
    return f"{directory}: {missing} not found, and {reason}; {way_out}"


def _download(dataset: str, directory: Path, missing: list[Path]) -> None:
    """Fetches files whole or not at all: into a folder of their own, from where complete ones move to their place."""
    from ogbench.utils import download_datasets

    if not missing:
        return
    temporary = Path(tempfile.mkdtemp(prefix=f".{dataset}-download-", dir=directory))
    try:
        for name in {f"{dataset}.npz", f"{dataset}-val.npz"} - {file.name for file in missing}:
            (temporary / name).touch()  # the downloader skips what exists
        with _socket_timeout(_DOWNLOAD_TIMEOUT):
            download_datasets([dataset], str(temporary))
        for file in missing:
            if not zipfile.is_zipfile(temporary / file.name):
                raise OSError(f"{file.name} arrived incomplete ({(temporary / file.name).stat().st_size} bytes)")
        for file in missing:
            (temporary / file.name).replace(file)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    """ogbench's downloader sets no timeout of its own and would wait for ever on a silent network."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


# Arrays


@dataclass
class _Split:
    """A file with what is known of it before its large arrays are read.

    :param ends: rows that end an episode, and so have no successor [rows], bool.
    :param terminals: 1 in the last row before those, of all rows that have a successor [T].
    :param rewards: by ogbench's relabelling [T], as are ``masks``.
    """

    archive: _Archive
    ends: NDArray[np.bool_]
    terminals: NDArray[np.float32]
    rewards: NDArray[np.float32]
    masks: NDArray[np.float32]
    observation_shape: tuple[int | None, ...]
    action_space: spaces.Box


def _load_split(split: _Split, task: SingleTask, device: torch.device | str) -> OfflineReplayBuffer:
    path, arrays = split.archive.path, _read(split)
    shape = arrays["observations"].shape[1:]
    pixels = arrays["observations"].dtype == np.uint8
    observation_space = (
        spaces.Box(0, 255, shape, np.uint8) if pixels else spaces.Box(-np.inf, np.inf, shape, np.float32)
    )
    return OfflineReplayBuffer.from_arrays(
        arrays,
        observation_space=observation_space,
        action_space=split.action_space,
        device=device,
        source=str(path),
        metadata={
            "env_id": task.env_id,
            "source": f"ogbench/{task.name}",
            "dataset_file": path.name,
            "episodes": int(split.terminals.sum()),
            "ogbench": version("ogbench"),
            **_provenance(path, task.dataset),
        },
    )


def _provenance(path: Path, dataset: str) -> dict[str, Any]:
    """What ``dipole data make`` noted beside the files, unless they were replaced since."""
    record = path.with_name(f"{dataset}.json")
    if not record.exists():
        return {}
    try:
        noted = json.loads(record.read_text())
        sizes = noted.pop("bytes")
    except (ValueError, KeyError, AttributeError) as error:
        raise DatasetError(f"{record}: expected the record that `dipole data make` writes ({error!r})") from error
    return {"generated": noted} if sizes.get(path.name) == path.stat().st_size else {}


class _Archive:
    """An .npz file whose every failure is one sentence about it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._failures_named():
            self._file = np.load(path)
        if not isinstance(self._file, np.lib.npyio.NpzFile):
            raise DatasetError(f"{path}: found a single array, expected an OGBench .npz archive")

    def __enter__(self) -> _Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def require(self, keys: Iterable[str]) -> None:
        missing = [key for key in keys if key not in self._file]
        if missing:
            raise DatasetError(f"{self.path}: lacks {', '.join(missing)}; found {', '.join(self._file.files)}")

    def read(self, key: str, expected: tuple[int | None, ...]) -> NDArray[Any]:
        """One array of the expected shape; None stands for any size."""
        with self._failures_named():
            array: NDArray[Any] = self._file[key]
        fits = [want in (None, have) for want, have in zip(expected, array.shape, strict=False)]
        if array.ndim != len(expected) or not all(fits):
            wanted = ", ".join("any" if size is None else str(size) for size in expected)
            raise DatasetError(f"{self.path}: {key} has shape {array.shape}, expected ({wanted})")
        return array

    @contextmanager
    def _failures_named(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # NumPy raises errors of many kinds for damaged bytes
            raise DatasetError(
                f"{self.path}: cannot be read as an .npz archive, it may be truncated ({error}); delete it and fetch "
                "or make it again"
            ) from error


def _label(archives: list[_Archive], task: SingleTask) -> list[_Split]:
    """Finds the transitions and their rewards in every file."""
    # Rewards depend on the state alone: the pixel variants are labelled without a renderer.
    env = gymnasium.make(task.env_id.removeprefix("visual-"))
    try:
        env.reset()
        return [_label_split(archive, task, env) for archive in archives]
    finally:
        env.close()


def _label_split(archive: _Archive, task: SingleTask, env: gymnasium.Env[Any, Any]) -> _Split:
    label_shapes = _label_shapes(env.unwrapped, task)
    archive.require(["observations", "actions", "terminals", *label_shapes])
    ends = _episode_ends(archive)
    keep = np.flatnonzero(~ends)
    terminals = ends[keep + 1].astype(np.float32)
    labels = {key: archive.read(key, (len(ends), *shape)) for key, shape in label_shapes.items()}
    rewards, masks = _relabelled(archive.path, labels, keep, task, env)
    pixels = task.env_id.startswith("visual-")
    observation_shape = (None, None, None) if pixels else env.observation_space.shape or ()
    assert isinstance(env.action_space, spaces.Box)
    return _Split(archive, ends, terminals, rewards, masks, observation_shape, env.action_space)


def _read(split: _Split) -> dict[str, NDArray[Any]]:
    """The arrays as ogbench's load_dataset and relabel_dataset make them.

    Files hold each episode's states s0 … sT in consecutive rows. The last row of an episode has no successor: it is
    dropped, and the row before it becomes the terminal one.
    """
    rows, keep = len(split.ends), np.flatnonzero(~split.ends)
    observations = split.archive.read("observations", (rows, *split.observation_shape))
    pixels = len(split.observation_shape) == 3
    observations = observations.astype(np.uint8 if pixels else np.float32, copy=False)
    next_observations = _successors(observations, keep)
    actions = split.archive.read("actions", (rows, *split.action_space.shape))
    return {
        "observations": _compacted(observations, keep),
        "actions": _compacted(actions.astype(np.float32, copy=False), keep),
        "rewards": split.rewards,
        "next_observations": next_observations,
        "terminals": split.terminals,
        "masks": split.masks,
    }


def _label_shapes(world: Any, task: SingleTask) -> dict[str, tuple[int, ...]]:
    """Keys, and their widths, from which ogbench computes rewards."""
    family = task.env_id.removeprefix("visual-").partition("-")[0]
    shapes: dict[str, tuple[int, ...]] = {}
    if family != "puzzle":
        shapes["qpos"] = (int(world.model.nq),)
    if family in ("puzzle", "scene"):
        shapes["button_states"] = (len(world._cur_button_states),)
    return shapes


def _episode_ends(archive: _Archive) -> NDArray[np.bool_]:
    """Rows that end an episode; the data must hold transitions and must not break off within an episode."""
    terminals = archive.read("terminals", (None,))
    if not np.isin(terminals, (0, 1)).all():
        raise DatasetError(f"{archive.path}: terminals holds values other than 0 and 1")
    ends = terminals.astype(bool)
    if len(ends) == 0 or not ends[-1]:
        raise DatasetError(f"{archive.path}: the last of {len(ends)} rows does not end an episode; the data is cut off")
    if ends.all():
        raise DatasetError(
            f"{archive.path}: each of {len(ends)} rows ends an episode; expected at least one transition"
        )
    return ends


def _relabelled(
    path: Path,
    labels: dict[str, NDArray[Any]],
    keep: NDArray[np.intp],
    task: SingleTask,
    env: gymnasium.Env[Any, Any],
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Rewards and masks by ogbench's own relabelling, in parts because it holds several float64 copies."""
    from ogbench.relabel_utils import relabel_dataset

    rewards, masks = np.empty(len(keep), np.float32), np.empty(len(keep), np.float32)
    for start in range(0, len(keep), _ROWS_AT_A_TIME):
        rows = keep[start : start + _ROWS_AT_A_TIME]
        part = {key: values[rows] for key, values in labels.items()}
        for key, values in part.items():
            if not np.isfinite(values).all():
                raise DatasetError(f"{path}: {key} has NaN or infinity; expected finite numbers")
        relabel_dataset(task.env_id, env, part)
        rewards[start : start + len(rows)] = part["rewards"]
        masks[start : start + len(rows)] = part["masks"]
    return rewards, masks


def _successors(array: NDArray[Any], keep: NDArray[np.intp]) -> NDArray[Any]:
    following = np.empty((len(keep), *array.shape[1:]), array.dtype)
    for start in range(0, len(keep), _ROWS_AT_A_TIME):
        stop = start + _ROWS_AT_A_TIME
        following[start:stop] = array[keep[start:stop] + 1]
    return following


def _compacted(array: NDArray[Any], keep: NDArray[np.intp]) -> NDArray[Any]:
    """The kept rows, moved together within the same memory; keep[i] ≥ i, so nothing is overwritten unread."""
    for start in range(0, len(keep), _ROWS_AT_A_TIME):
        stop = start + _ROWS_AT_A_TIME
        rows = array[keep[start:stop]]
        array[start : start + len(rows)] = rows
    return array[: len(keep)]
