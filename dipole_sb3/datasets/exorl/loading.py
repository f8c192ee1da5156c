"""ExORL's recordings, rewarded for one task at a time, and their environments."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium
import torch
from filelock import FileLock

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common.child_processes import available_cores
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.progress import progress_bar
from dipole_sb3.datasets import storage
from dipole_sb3.datasets.exorl.episodes import find_episodes, fingerprint
from dipole_sb3.datasets.exorl.names import RewardedTask, data_directory, parse

RELABELLER_VERSION = 1
"""Raised whenever the same episodes would give other arrays; what older versions kept is then ignored."""

_STEPS_WORTH_A_PROCESS = 50_000
"""Steps whose relabelling takes a few times as long as starting a process."""


def load(
    name: str,
    *,
    device: torch.device | str = "auto",
    dataset_dir: str | Path | None = None,
    processes: int | None = None,
) -> OfflineReplayBuffer:
    """What one of ExORL's agents recorded, with the rewards of one task (Yarats et al. 2022, arXiv:2201.13425).

    Rewards are the task's of the *next* state, computed through dm_control's physics. Every mask is 1: episodes end by
    their time limit alone. The result is kept beside the recording, as memory-mapped arrays, and used again as long as
    the episodes have the same names and sizes. Of runs that start together, one computes it.

    :param name: ``{domain}/{algorithm}/{task}``, for example ``walker/rnd/walk``.
    :param device: where batches will be drawn.
    :param dataset_dir: folder of all recordings; default ``$EXORL_DATA_DIR``, else ``~/.exorl``. Episodes lie there
        as ``walker/rnd/buffer/episode_000000_1000.npz``.
    :param processes: that relabel at a time; default: one per core, fewer where little is to be done.
    :returns: the buffer; its ``metadata`` names ``env_id``, ``source``, ``episodes`` and the versions used.
    :raises DatasetError: an unknown name, no episodes, one that is damaged or of another domain (named), or a folder
        that cannot be written.
    :raises OSError: the disk is full; nothing half-made is left.
    :raises ValueError: fewer than one process.
    """
    if processes is not None and processes < 1:
        raise ValueError(f"processes is {processes}; expected at least 1")
    rewarded = parse(name)
    folder = rewarded.recording.folder(data_directory(dataset_dir))
    cache = cache_path(folder, rewarded.task)
    if not cache.exists() and not (folder / "buffer").is_dir():
        raise DatasetError(
            f"{folder}: no recording in it; expected {folder / 'buffer'}, which `dipole data fetch "
            f"{rewarded.recording}` fetches"
        )
    found = _cached(cache, folder, device)
    if found is not None:
        return found
    with _one_at_a_time(folder / f".{cache.name}.lock"):
        found = _cached(cache, folder, device)  # another process may have made it in the meantime
        if found is None:
            _relabel(rewarded, folder, cache, processes)
    return found if found is not None else storage.load(cache, device=device)


def make_env(name: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """The environment of a task, by the name of its data.

    :param name: as in :func:`load`; the algorithm plays no part.
    :param kwargs: passed on to ``gymnasium.make`` (``max_episode_steps``, ``render_mode``, …).
    :raises DatasetError: unknown name, or dm_control is not installed.
    """
    rewarded = parse(name)
    _require_dm_control()
    environment: gymnasium.Env[Any, Any] = gymnasium.make(rewarded.env_id, **kwargs)
    return environment


def cache_path(folder: Path, task: str) -> Path:
    """Where the relabelled transitions are kept; the relabeller's version is a part of the name."""
    return folder / f"{task}.relabelled-v{RELABELLER_VERSION}"


@contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire()
    except OSError as error:
        raise DatasetError(f"{path.parent}: the folder cannot be written ({error.strerror or error})") from error
    try:
        yield
    finally:
        lock.release()


def _cached(cache: Path, folder: Path, device: torch.device | str) -> OfflineReplayBuffer | None:
    """What was computed before, unless the episodes are other ones by now."""
    if not cache.exists():
        return None
    buffer = storage.load(cache, device=device)
    # Where the episodes were removed to save space, this is all there is.
    same = not (folder / "buffer").is_dir() or buffer.metadata.get("fingerprint") == fingerprint(find_episodes(folder))
    return buffer if same else None


def _relabel(rewarded: RewardedTask, folder: Path, cache: Path, processes: int | None) -> None:
    _require_dm_control()
    from dipole_sb3.datasets.exorl.relabelling import Relabeller, label_all

    domain, episodes = rewarded.recording.domain, find_episodes(folder)
    observation_space, action_space = Relabeller(domain, rewarded.task).spaces()
    metadata = {
        "env_id": rewarded.env_id,
        "source": str(rewarded),
        "episodes": len(episodes),
        "fingerprint": fingerprint(episodes),
        "relabeller": RELABELLER_VERSION,
        "dm_control": version("dm_control"),
        "mujoco": version("mujoco"),
    }
    steps = sum(episode.steps for episode in episodes)
    count = processes or min(available_cores(), math.ceil(steps / _STEPS_WORTH_A_PROCESS))
    count = max(1, min(count, len(episodes)))
    with (
        storage.DatasetWriter(cache, observation_space, action_space, metadata=metadata, overwrite=True) as writer,
        progress_bar(total=steps, desc=f"rewards of {rewarded}", unit=" steps", unit_scale=True) as progress,
        closing(label_all(domain, rewarded.task, episodes, count)) as all_labelled,
    ):
        for labelled in all_labelled:
            writer.append(labelled)
            progress.update(len(labelled["rewards"]))


def _require_dm_control() -> None:
    try:
        importlib.import_module("dm_control")
    except ModuleNotFoundError as error:
        raise DatasetError(
            f"ExORL data needs the package {error.name}, which is not installed: pip install 'dipole-sb3[exorl]'"
        ) from error
