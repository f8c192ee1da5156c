"""OGBench's data sets and environments, of single tasks and of goals."""

from __future__ import annotations

import gc
import json
import shlex
import shutil
import socket
import tempfile
import zipfile
from collections.abc import Iterator
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
from dipole_sb3.datasets.ogbench import archives
from dipole_sb3.datasets.ogbench.archives import Archive, episode_ends, read_transitions
from dipole_sb3.datasets.ogbench.generation import make_dataset
from dipole_sb3.datasets.ogbench.goals import GoalConditioned, GoalRule, goal_rule, goal_space, with_goals
from dipole_sb3.datasets.ogbench.names import (
    NamedSet,
    data_directory,
    goal_set_names,
    parse,
    require_known_behaviour,
    single_task_names,
)
from dipole_sb3.datasets.ogbench.oracles import VISUAL, made

__all__ = ["GoalConditioned", "goal_set_names", "load", "make_dataset", "make_env", "single_task_names"]

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
    """A data set of OGBench, with exactly the arrays that ``ogbench.make_env_and_datasets`` returns.

    Of a single task, rewards and masks come from ogbench itself: they look at the state *before* the action, success
    does not end an episode, and a mask is 0 only on full success. Loading takes at most about 1.3 times the
    memory of those arrays.

    With goals, observations are those of :class:`GoalConditioned`. OGBench records neither goals nor rewards: the
    desired goal of every episode is the one it achieved last, rewards are those of ``compute_reward`` for it, and
    episodes end by time alone. :class:`~dipole_sb3.HindsightReplayBuffer` gives them other goals.

    :param name: for example ``cube-single-play-singletask-task2-v0``, or ``…-singletask-v0`` for the default task; with
        goals ``cube-single-play-v0``.
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
        splits = _label([stack.enter_context(Archive(file)) for file in files], task)
        # ogbench's scene trees hold tens of megabytes in reference cycles: let them go before the large arrays come.
        gc.collect()
        buffers = [_load_split(split, task, device) for split in splits]
    if validation:
        buffers[0].validation = buffers[1]
    return buffers[0]


def make_env(name: str, *, success_timing: str = "post", **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """The environment of a data set, with float32 observations as in the data (pixels stay uint8).

    With goals it is a :class:`GoalConditioned`.

    On success_timing: rewards in the data of a single task look at the state before the action, s. Up to ogbench 1.1
    the environments looked at the state after it, s'; since 1.2 they look at s by default. Published results on these
    tasks, and fine-tuning on top of them, were made with s', so ``"post"`` keeps to it under any ogbench. ``"pre"``
    gives online transitions the data's own convention; success then counts one step later, and not at all in the very
    last one.

    :param name: as in :func:`load`.
    :param success_timing: ``"post"``: reward, termination and ``info["success"]`` look at s'; ``"pre"``: at s; with
        goals always at s'.
    :param kwargs: passed on to ``gymnasium.make`` (``max_episode_steps``, ``render_mode``, …).
    :raises DatasetError: unknown name.
    :raises ValueError: another success_timing, ``"pre"`` where ogbench is older than 1.2 or with goals.
    """
    task = parse(name)
    if success_timing not in ("pre", "post"):
        raise ValueError(f"success_timing is {success_timing!r}; expected 'pre' or 'post'")
    if task.has_goals:
        if success_timing == "pre":
            raise ValueError(
                f"{task.name}: success_timing is 'pre'; expected 'post': goals are judged by what a step achieves"
            )
        return GoalConditioned(made(task.env_id, **kwargs))
    if "success_timing" in gymnasium.spec(task.env_id).kwargs:
        kwargs["success_timing"] = success_timing
    elif success_timing == "pre":
        raise ValueError(f"success_timing='pre' needs ogbench >= 1.2; found {version('ogbench')}")
    env = made(task.env_id, **kwargs)
    if env.observation_space.dtype == np.float64:
        env = DtypeObservation(env, np.float32)
    return env


# Files


def _provide_files(task: NamedSet, directory: Path, validation: bool, download: bool) -> None:
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


def _absence(task: NamedSet, directory: Path, wanted: tuple[Path, ...], reason: str) -> str:
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
    :param labels: ``rewards`` and ``masks`` [T] by ogbench's relabelling; nothing with goals.
    :param rule: of goals; None: a single task.
    """

    archive: Archive
    ends: NDArray[np.bool_]
    labels: dict[str, NDArray[np.float32]]
    rule: GoalRule | None
    observation_shape: tuple[int | None, ...]
    action_space: spaces.Box


def _load_split(split: _Split, task: NamedSet, device: torch.device | str) -> OfflineReplayBuffer:
    path, action_space = split.archive.path, split.action_space
    arrays = read_transitions(split.archive, split.ends, split.observation_shape, action_space.shape)
    shape = arrays["observations"].shape[1:]
    pixels = arrays["observations"].dtype == np.uint8
    state_space = spaces.Box(0, 255, shape, np.uint8) if pixels else spaces.Box(-np.inf, np.inf, shape, np.float32)
    return OfflineReplayBuffer.from_arrays(
        {**arrays, **split.labels} if split.rule is None else with_goals(arrays, split.rule),
        observation_space=state_space if split.rule is None else goal_space(state_space, split.rule),
        action_space=action_space,
        device=device,
        source=str(path),
        metadata={
            "env_id": task.env_id,
            "source": f"ogbench/{task.name}",
            "dataset_file": path.name,
            "episodes": int(arrays["terminals"].sum()),
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


def _label(opened: list[Archive], task: NamedSet) -> list[_Split]:
    """Finds the transitions in every file, and their rewards or the rule of goals."""
    # Rewards depend on the state alone: the pixel variants are labelled without a renderer.
    env = made(task.env_id.removeprefix(VISUAL))
    try:
        env.reset()
        return [_label_split(archive, task, env) for archive in opened]
    finally:
        env.close()


def _label_split(archive: Archive, task: NamedSet, env: gymnasium.Env[Any, Any]) -> _Split:
    label_shapes = {} if task.has_goals else _label_shapes(env.unwrapped, task)
    archive.require(["observations", "actions", "terminals", *label_shapes])
    ends = episode_ends(archive)
    labels = {key: archive.read(key, (len(ends), *shape)) for key, shape in label_shapes.items()}
    relabelled = {} if task.has_goals else _relabelled(archive.path, labels, np.flatnonzero(~ends), task, env)
    rule = goal_rule(env) if task.has_goals else None
    pixels = task.env_id.startswith(VISUAL)
    observation_shape = (None, None, None) if pixels else env.observation_space.shape or ()
    assert isinstance(env.action_space, spaces.Box)
    return _Split(archive, ends, relabelled, rule, observation_shape, env.action_space)


def _label_shapes(world: Any, task: NamedSet) -> dict[str, tuple[int, ...]]:
    """Keys, and their widths, from which ogbench computes rewards."""
    family = task.env_id.removeprefix(VISUAL).partition("-")[0]
    shapes: dict[str, tuple[int, ...]] = {}
    if family != "puzzle":
        shapes["qpos"] = (int(world.model.nq),)
    if family in ("puzzle", "scene"):
        shapes["button_states"] = (len(world._cur_button_states),)
    return shapes


def _relabelled(
    path: Path,
    labels: dict[str, NDArray[Any]],
    keep: NDArray[np.intp],
    task: NamedSet,
    env: gymnasium.Env[Any, Any],
) -> dict[str, NDArray[np.float32]]:
    """``rewards`` and ``masks`` by ogbench's own relabelling, in parts because it holds several float64 copies."""
    from ogbench.relabel_utils import relabel_dataset

    rewards, masks = np.empty(len(keep), np.float32), np.empty(len(keep), np.float32)
    for start in range(0, len(keep), archives.ROWS_AT_A_TIME):
        rows = keep[start : start + archives.ROWS_AT_A_TIME]
        part = {key: values[rows] for key, values in labels.items()}
        for key, values in part.items():
            if not np.isfinite(values).all():
                raise DatasetError(f"{path}: {key} has NaN or infinity; expected finite numbers")
        relabel_dataset(task.env_id, env, part)
        rewards[start : start + len(rows)] = part["rewards"]
        masks[start : start + len(rows)] = part["masks"]
    return {"rewards": rewards, "masks": masks}
