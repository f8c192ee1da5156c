"""Recordings in .npz files, with their provenance in .json files beside them."""

from __future__ import annotations

import datetime
import math
import os
import platform
import shlex
from collections.abc import Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from dipole_sb3.common.files import replaced_when_complete, sha256_of
from dipole_sb3.common.intervals import mean_interval
from dipole_sb3.datasets import files


class Recording(NamedTuple):
    """Recorded transitions, by the keys of :func:`dipole_sb3.datasets.files.load`, and their provenance."""

    arrays: dict[str, np.ndarray]
    provenance: dict[str, Any]


def action_bounds(space: gymnasium.spaces.Space[Any]) -> dict[str, list[float]]:
    """Metadata that contains the bounds of the actions."""
    assert isinstance(space, gymnasium.spaces.Box)
    return {"action_low": space.low.tolist(), "action_high": space.high.tolist()}


def today_and_versions() -> dict[str, Any]:
    """The date (UTC), and the versions of the packages that take part in a recording, if installed."""
    versions = {"python": platform.python_version()}
    for name in ("stable-baselines3", "sb3-contrib", "torch", "gymnasium", "mujoco", "numpy"):
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {"packages": versions, "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat()}


def returns_of(returns: Sequence[float]) -> dict[str, Any]:
    """Mean over complete episodes, with its 95 % interval if there are at least two."""
    facts: dict[str, Any] = {"data_episodes": len(returns)}
    if returns:
        for key, value in mean_interval(returns)._asdict().items():
            if math.isfinite(value):
                facts[f"data_return_{key}"] = round(value, 3)
    return facts


def require_output(path: str | os.PathLike[str]) -> None:
    """Refuses a path that cannot be written, before minutes of recording.

    :raises ValueError: a path without the suffix .npz.
    :raises OSError: its folder cannot be created or written.
    """
    path = Path(path)
    if path.suffix != ".npz":
        raise ValueError(f"{path}: recorded data is written as .npz; expected a file name with that suffix")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path.parent}: the folder cannot be written")


def write_recording(
    recording: Recording, path: str | os.PathLike[str], command: Sequence[str] = ()
) -> tuple[Path, Path]:
    """Writes the arrays as .npz and, beside it, the provenance (with the data's checksum) as .json.

    :param path: of the .npz file.
    :param command: the command line that made the recording, stored in the provenance.
    :return: both paths.
    :raises ValueError: a path without the suffix .npz.
    :raises OSError: the folder cannot be written; no incomplete file is left behind.
    """
    require_output(path)
    path = Path(path)
    with replaced_when_complete(path) as file:
        files.write_arrays(file, recording.arrays)
        checksum = sha256_of(file)
    provenance = {
        **recording.provenance,
        **({"command": shlex.join(command)} if command else {}),
        "sha256": checksum,
    }
    return path, files.write_metadata(path, provenance)
