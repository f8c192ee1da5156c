"""Episodes as ExORL publishes them: ``buffer/episode_{index}_{steps}.npz``, one row more than steps."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from dipole_sb3.common import checks
from dipole_sb3.common.errors import DatasetError

_NAME = re.compile(r"episode_(\d+)_(\d+)\.npz")
_KEYS = ("observation", "action", "discount", "physics")


class EpisodeFile(NamedTuple):
    """A file of one episode, and the steps that its name promises."""

    path: Path
    number: int
    steps: int


class Widths(NamedTuple):
    """Numbers in a row of a domain's episodes."""

    observation: int
    action: int
    physics: int


class Episode(NamedTuple):
    """The transitions of one episode, T of them; rewards depend on the task and are not read.

    =================  ====================================================
    observations       [T, observation] float32
    actions            [T, action] float32, in [−1, 1]
    next_observations  [T, observation] float32
    states             [T, physics] float64, of the *next* observations
    =================  ====================================================
    """

    observations: NDArray[np.float32]
    actions: NDArray[np.float32]
    next_observations: NDArray[np.float32]
    states: NDArray[np.float64]


def episode_name(number: int, steps: int) -> str:
    """Name of an episode's file: ``episode_000007_1000.npz``."""
    return f"episode_{number:06d}_{steps}.npz"


def is_episode_name(name: str) -> bool:
    """Whether a file's name is that of an episode."""
    return _NAME.fullmatch(name) is not None


def find_episodes(folder: Path) -> list[EpisodeFile]:
    """Every episode of a recording, in the order in which they were recorded.

    :param folder: with the sub-folder ``buffer``.
    :raises DatasetError: no such folder, nothing in it, or an .npz file of another name.
    """
    buffer = folder / "buffer"
    found = [path for path in buffer.glob("*.npz") if not path.name.startswith(".")]
    if not found:
        state = "has no episodes in it" if buffer.is_dir() else "does not exist"
        raise DatasetError(f"{buffer}: the folder {state}; expected files such as {episode_name(0, 1000)}")
    episodes = []
    for path in found:
        name = _NAME.fullmatch(path.name)
        if name is None:
            raise DatasetError(f"{path}: this is no episode's name; expected one such as {episode_name(0, 1000)}")
        episodes.append(EpisodeFile(path, int(name[1]), int(name[2])))
    return sorted(episodes, key=lambda episode: (episode.number, episode.path.name))


def fingerprint(episodes: Sequence[EpisodeFile]) -> str:
    """Hex digest of the episodes' names and sizes: other files give another one."""
    digest = hashlib.sha256()
    for episode in episodes:
        digest.update(f"{episode.path.name} {episode.path.stat().st_size}\n".encode())
    return digest.hexdigest()


def read_episode(file: EpisodeFile, widths: Widths, domain: str) -> Episode:
    """The transitions of an episode's file.

    Row t of the file holds the action of step t and what was seen after it; row 0 holds what was seen first, and an
    action that nobody took. So transition t goes from row t − 1 to row t, with the action and the state of row t.

    :param file: the episode.
    :param widths: of the domain's rows.
    :param domain: its name, for messages.
    :raises DatasetError: damaged, lacking a key, of another domain, another length than its name says, with NaN or
        infinity, actions outside [−1, 1], or an end that is no time limit.
    """
    source = str(file.path)
    if file.steps < 1:
        raise DatasetError(f"{source}: its name promises {file.steps} steps; expected at least 1")
    arrays = _read_arrays(file.path)
    missing = [key for key in _KEYS if key not in arrays]
    if missing:
        raise DatasetError(
            f"{source}: lacks {', '.join(missing)}; found {checks.describe_keys(arrays)}; expected {', '.join(_KEYS)}"
        )
    rows = file.steps + 1
    for key, width in widths._asdict().items():
        array = checks.require_numeric(source, key, arrays[key])
        if array.ndim != 2 or array.shape[1] != width:
            raise DatasetError(
                f"{source}: {key} has shape {array.shape}, expected ({rows}, {width}): rows of the domain {domain}"
            )
        if len(array) != rows:
            raise DatasetError(
                f"{source}: {key} has {len(array)} rows, expected {rows}: the {file.steps} steps of its name and the "
                "row before them"
            )
        checks.require_finite(source, key, array)
    discount = checks.require_numeric(source, "discount", arrays["discount"])
    if discount.size != rows or not (discount == 1).all():
        raise DatasetError(f"{source}: discount is not 1 in each of {rows} rows; expected ends by time limit only")
    checks.require_within(source, "action", arrays["action"], spaces.Box(-1.0, 1.0, (widths.action,), np.float32))
    observation = np.asarray(arrays["observation"], np.float32)
    return Episode(
        observations=observation[:-1],
        actions=np.asarray(arrays["action"][1:], np.float32),
        next_observations=observation[1:],
        states=np.asarray(arrays["physics"][1:], np.float64),
    )


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except Exception as error:  # zipfile and NumPy raise errors of many kinds for damaged bytes
        text = " ".join(str(error).split()) or type(error).__name__
        raise DatasetError(
            f"{path}: cannot be read as an .npz file, it may be truncated or damaged ({text}); expected an episode as "
            "ExORL publishes them"
        ) from error
