"""From any data set to any of the project's formats, a part at a time."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces

from dipole_sb3.buffers import array_conventions
from dipole_sb3.buffers.action_units import in_environment_units
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common import checks
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.files import replaced_when_complete
from dipole_sb3.datasets import files, is_file_name, is_recording, load_dataset, remote, storage
from dipole_sb3.datasets.array_files import HDF5_SUFFIXES, Arrays, opened

_ROWS_AT_A_TIME = 65_536


def convert(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    to: str | None = None,
    fps: float | None = None,
    use_videos: bool | None = None,
    overwrite: bool = False,
    **options: Any,
) -> None:
    """Writes a data set in another format, whole or not at all.

    Between files and stored sets it never lies in memory as a whole; nor do the images and videos of a LeRobot data set
    on their way into a stored one.

    :param source: anything that :func:`~dipole_sb3.load_dataset` knows.
    :param destination: an .npz, .hdf5 or .h5 file, beside which a .json file keeps the metadata and the bounds of the
        actions; anything else is the folder of a stored data set.
    :param to: ``"minari"``: ``destination`` is the name of a set in Minari's folder
        (:func:`dipole_sb3.datasets.minari.export`); ``"lerobot"``: the folder of a LeRobot data set
        (:func:`dipole_sb3.datasets.lerobot.export`).
    :param fps: frames a second, for LeRobot; None: as the source tells.
    :param use_videos: whether images become videos, for LeRobot, or PNG files in the table of frames, which lose
        nothing; None: they do.
    :param overwrite: replace what has that name.
    :param options: for :func:`~dipole_sb3.load_dataset`, where the source is a set of LeRobot or robomimic:
        ``reward``, ``observations``, ``image_size``, ``filter_key``, ``action_space``.
    :raises DatasetError: the source cannot be read, or the destination's name is taken.
    :raises ValueError: options that the source or the destination does not have.
    :raises OSError: the destination cannot be written, or the disk is full.
    """
    shown, source = remote.without_secrets(str(source)) if remote.is_url(source) else source, remote.located(source)
    if options and not is_recording(source):
        raise ValueError(f"{shown}: {', '.join(options)} is for sets of LeRobot and robomimic, which this is not")
    if fps is not None and to != "lerobot":
        raise ValueError(f"fps is {fps:g}, which only data sets of LeRobot have; expected to='lerobot' with it")
    if use_videos is not None and to != "lerobot":
        raise ValueError(f"use_videos is {use_videos}, which is for LeRobot alone; expected to='lerobot' with it")
    if to is not None:
        _export(source, str(destination), to, fps, use_videos is not False, overwrite, shown, options)
        return
    destination = Path(destination)
    if destination.suffix not in (".npz", *HDF5_SUFFIXES):
        _store(source, destination, overwrite, shown, options)
        return
    if destination.exists() and not overwrite:
        raise DatasetError(f"{destination}: exists already; expected a new name, or to be told to overwrite it")
    if not is_file_name(source):
        _write_file(load_dataset(source, device="cpu", **options), destination, shown)
        return
    # The number of transitions is known only after the file was read, so they go to a stored data set first. Its name
    # is fixed: the next conversion replaces what a killed one left.
    stored = destination.with_name(f".{destination.name}.stored")
    try:
        _store(source, stored, True, shown, {})
        _write_file(storage.load(stored, device="cpu"), destination, shown)
    finally:
        shutil.rmtree(stored, ignore_errors=True)


def _export(
    source: str | os.PathLike[str],
    destination: str,
    to: str,
    fps: float | None,
    use_videos: bool,
    overwrite: bool,
    shown: str | os.PathLike[str],
    options: Mapping[str, Any],
) -> None:
    from dipole_sb3.datasets import lerobot, minari

    if to not in ("minari", "lerobot"):
        raise ValueError(f"to is {to!r}, expected 'minari' or 'lerobot'")
    buffer = load_dataset(source, device="cpu", **options)
    metadata = _provenance(buffer.metadata, shown)
    if to == "minari":
        minari.export(buffer, destination, metadata=metadata, overwrite=overwrite)
    else:
        lerobot.export(
            buffer, Path(destination), fps=fps, use_videos=use_videos, metadata=metadata, overwrite=overwrite
        )


def _store(
    source: str | os.PathLike[str],
    destination: Path,
    overwrite: bool,
    shown: str | os.PathLike[str],
    options: Mapping[str, Any],
) -> None:
    if is_recording(source) and Path(source).is_dir():
        from dipole_sb3.datasets import lerobot

        recording = lerobot.read(source, **options)
        metadata, known = _provenance(recording.metadata, shown), (recording.observation_space, recording.action_space)
        with storage.DatasetWriter(destination, *known, metadata, overwrite, source=recording.source) as writer:
            for block in recording.blocks():
                writer.append(block)
        return
    if not is_file_name(source):
        buffer = load_dataset(source, device="cpu", **options)
        metadata = _provenance(buffer.metadata, shown)
        storage.save(buffer, destination, metadata=metadata, overwrite=overwrite)
        return
    path = Path(source)
    metadata = _provenance(files.read_metadata(path), shown)
    with opened(path) as arrays:
        observation_space, action_space = spaces_of(path, arrays, metadata)
        with storage.DatasetWriter(
            destination, observation_space, action_space, metadata, overwrite, source=str(path)
        ) as writer:
            for block in array_conventions.transition_blocks(str(path), arrays):
                writer.append(block)


def _provenance(metadata: Mapping[str, Any], source: str | os.PathLike[str]) -> dict[str, Any]:
    # The digest of the source does not apply to the new file.
    kept = {key: value for key, value in metadata.items() if key != "sha256"}
    return {**kept, "converted_from": str(source)}


def spaces_of(path: Path, arrays: Arrays, metadata: dict[str, Any]) -> tuple[spaces.Space[Any], spaces.Box]:
    """The spaces that :func:`files.load` finds, without all of the file in memory.

    :raises DatasetError: no observations or actions, or actions in units whose bounds nothing tells.
    """
    missing = [key for key in ("observations", "actions") if key not in arrays]
    if missing:
        raise DatasetError(f"{path}: missing {', '.join(missing)}; found {checks.describe_keys(arrays)}")
    observations, following = (
        _enough_to_infer_from(path, arrays.get(key, arrays["observations"]))
        for key in ("observations", "next_observations")
    )
    observation_space = checks.infer_observation_space(str(path), observations, following)
    action_space = files.known_action_space(metadata)
    if action_space is None:
        action_space = checks.infer_action_space(str(path), _extremes(path, arrays["actions"]))
    return observation_space, action_space


def _enough_to_infer_from(path: Path, observations: Any) -> Any:
    """One row tells the space, of single numbers the least and the greatest."""
    if isinstance(observations, dict):
        return {key: _enough_to_infer_from(path, part) for key, part in observations.items()}
    if len(observations.shape) == 1 and observations.dtype.kind in "iu" and observations.shape[0]:
        return _least_and_greatest(path, "observations", observations)
    return observations[:1]


def _extremes(path: Path, actions: Any) -> np.ndarray:
    """The lowest and the highest of every element, [2, action]."""
    if isinstance(actions, dict):
        raise DatasetError(f"{path}: actions are several arrays, {checks.describe_keys(actions)}; expected one")
    if len(actions.shape) < 2:
        return np.broadcast_to(np.float32(0), actions.shape)  # refused for its shape, whatever is in it
    return _least_and_greatest(path, "actions", actions)


def _least_and_greatest(path: Path, key: str, values: Any) -> np.ndarray:
    extremes: list[np.ndarray] = []
    for start in range(0, values.shape[0], _ROWS_AT_A_TIME):
        part = checks.require_numeric(str(path), key, values[start : start + _ROWS_AT_A_TIME])
        extremes = [np.min([*extremes, part.min(axis=0)], axis=0), np.max([*extremes, part.max(axis=0)], axis=0)]
    return checks.require_numeric(str(path), key, np.asarray(extremes))


def _write_file(buffer: OfflineReplayBuffer, path: Path, shown: str | os.PathLike[str]) -> None:
    if path.suffix == ".npz":
        _write_npz(buffer, path)
    else:
        _write_hdf5(buffer, path)
    space = checks.require_box_actions(buffer.action_space)
    metadata = {
        **_provenance(buffer.metadata, shown),
        "action_low": space.low.tolist(),
        "action_high": space.high.tolist(),
    }
    files.write_metadata(path, metadata)


def _write_npz(buffer: OfflineReplayBuffer, path: Path) -> None:
    # A zip file is written member by member: every array needs a pass over the data.
    names = [(name, array.dtype, array.shape[1:]) for name, array in _arrays(next(buffer.blocks(1)), buffer)]
    with replaced_when_complete(path) as file, zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        for name, dtype, shape in names:
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
                whole = (buffer.size() * buffer.n_envs, *shape)
                header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": whole}
                np.lib.format.write_array_header_1_0(member, header)
                for block in buffer.blocks():
                    member.write(np.ascontiguousarray(dict(_arrays(block, buffer))[name]).tobytes())


def _write_hdf5(buffer: OfflineReplayBuffer, path: Path) -> None:
    import h5py

    with replaced_when_complete(path) as file, h5py.File(file, "w") as target:
        start = 0
        for block in buffer.blocks():
            for name, array in _arrays(block, buffer):
                if start == 0:
                    target.create_dataset(name, (buffer.size() * buffer.n_envs, *array.shape[1:]), array.dtype)
                target[name][start : start + len(array)] = array
            start += len(block["rewards"])


def _arrays(block: dict[str, Any], buffer: OfflineReplayBuffer) -> Iterator[tuple[str, np.ndarray]]:
    """A block in the words of :func:`files.load`, by name in the file."""
    for key in ("observations", "next_observations"):
        value = block[key]
        yield from (
            ((f"{key}/{part}", array) for part, array in value.items()) if isinstance(value, dict) else [(key, value)]
        )
    yield "actions", in_environment_units(block["actions"], buffer.action_space)
    yield "rewards", block["rewards"]
    yield "terminals", block["dones"]
    yield "masks", 1 - block["dones"] * (1 - block["timeouts"])
