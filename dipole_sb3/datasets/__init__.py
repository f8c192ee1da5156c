"""Recorded data by name: one file per source, one function to load any of them."""

from __future__ import annotations

import difflib
import importlib.util
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gymnasium
import torch

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.buffers.stacked_frames import stack_frames
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.frame_stack import FrameStack

EXPECTED_NAMES = (
    "ogbench/<name>, exorl/<domain>/<algorithm>/<task>, minari/<id>, demo/<name>, or the path or URL of an .npz "
    "or .hdf5 file, of a stored data set's folder or of a LeRobot data set's"
)

FILE_SUFFIXES = (".npz", ".hdf5", ".h5")


def load_dataset(
    name: str | os.PathLike[str], *, device: torch.device | str = "auto", frame_stack: int = 1, **options: Any
) -> OfflineReplayBuffer:
    """Recorded data, ready to train on.

    :param name: ``"ogbench/cube-single-play-singletask-task2-v0"`` (any single-task name of OGBench),
        ``"ogbench/cube-single-play-v0"`` (the same data with goals),
        ``"exorl/walker/rnd/walk"`` (any of nine tasks on ExORL's recordings),
        ``"minari/mujoco/reacher/medium-v0"`` (any set of Minari's local folder),
        ``"demo/reacher-tqc-10k"`` (ships with the package), the path of an .npz or .hdf5 file
        (:func:`dipole_sb3.datasets.files.load` says with which keys), of a robomimic file
        (:func:`dipole_sb3.datasets.robomimic.load`), of a folder that
        :class:`dipole_sb3.datasets.storage.DatasetWriter` or ``dipole data convert`` wrote, or of a LeRobot data set
        (:func:`dipole_sb3.datasets.lerobot.load`). Instead of a path an address that fsspec knows, such as
        ``"s3://bucket/hopper"`` (:func:`dipole_sb3.datasets.remote.located`).
    :param device: where batches will be drawn.
    :param frame_stack: n ≥ 1, frames in an observation: :func:`~dipole_sb3.stack_frames`.
    :param options: the source's own: ``dataset_dir``, ``validation``, ``download`` for OGBench; ``dataset_dir``,
        ``processes`` for ExORL; ``observation_space``, ``action_space`` for files and for sets of LeRobot and
        robomimic, of which ``reward`` and ``observations`` say more, and ``filter_key`` for robomimic;
        ``image_size`` for sets of LeRobot and Minari; ``trust_pickle`` for the .pkl file of an SB3 replay buffer.
    :raises DatasetError: an unknown name (with the nearest known ones), or data that is missing or malformed.
    """
    return stack_frames(_loaded(name, device, options), frame_stack)


def _loaded(
    name: str | os.PathLike[str], device: torch.device | str, options: Mapping[str, Any]
) -> OfflineReplayBuffer:
    from dipole_sb3.datasets import demo, files, remote

    name = remote.located(name)
    if isinstance(name, str):
        source, _, rest = name.partition("/")
        if source == "ogbench":
            from dipole_sb3.datasets import ogbench

            return ogbench.load(name, device=device, **options)
        if source == "minari":
            from dipole_sb3.datasets import minari

            return minari.load(name, device=device, **options)
        if source == "demo" and rest in demo.NAMES:
            return demo.load(rest, device=device, **options)
        if source == "exorl":
            from dipole_sb3.datasets import exorl

            return exorl.load(name, device=device, **options)
    if is_recording(name):
        from dipole_sb3.datasets import lerobot, robomimic

        if Path(name).is_dir():
            return lerobot.load(name, device=device, **options)
        return robomimic.load(name, device=device, **options)
    if Path(name).is_dir():
        from dipole_sb3.datasets import storage

        return storage.load(name, device=device, **options)
    if Path(name).suffix == ".pkl":
        from dipole_sb3.datasets import replay_buffers

        return replay_buffers.load(name, device=device, **options)
    if not is_file_name(name):
        raise DatasetError(f"{name}: no data set of this name; {_suggestion(str(name))}")
    return files.load(name, device=device, **options)


def make_env(
    source: str | OfflineReplayBuffer, *, frame_stack: int | None = None, **options: Any
) -> gymnasium.Env[Any, Any]:
    """The environment a data set belongs to, or one by name.

    :param source: a buffer whose metadata has ``env_id`` (and ``env_kwargs``, where it has those); or a name:
        ``"ogbench/<name>"``, the name of an ExORL data set, else a Gymnasium id.
    :param frame_stack: n ≥ 1, frames in an observation: :class:`~dipole_sb3.FrameStack`; None: as many as in the data
        set's, with a name 1.
    :param options: handed to ``ogbench.make_env`` or ``gymnasium.make``.
    :raises DatasetError: the data set does not say where it was recorded.
    :raises gymnasium.error.Error: Gymnasium does not know the id.
    """
    if frame_stack is None and isinstance(source, OfflineReplayBuffer):
        frame_stack = int(source.metadata.get("frame_stack", 1))
    env = _made(source, options)
    return env if frame_stack in (None, 1) else FrameStack(env, frame_stack)


def _made(source: str | OfflineReplayBuffer, options: Mapping[str, Any]) -> gymnasium.Env[Any, Any]:
    if isinstance(source, OfflineReplayBuffer):
        recorded_in, environment = str(source.metadata.get("source", "")), source.metadata.get("env_id")
        if recorded_in.startswith("ogbench/"):
            return _made(recorded_in, options)
        if not environment:
            raise DatasetError(f"{source.source}: its metadata has no env_id; expected the id of the environment")
        return gymnasium.make(environment, **{**source.metadata.get("env_kwargs", {}), **options})
    if source.startswith("ogbench/"):
        from dipole_sb3.datasets import ogbench

        return ogbench.make_env(source, **options)
    if source.startswith("exorl/") and source.count("/") > 1:  # data's name; the environments' own have one part less
        from dipole_sb3.datasets import exorl

        return exorl.make_env(source, **options)
    return gymnasium.make(source, **options)


def is_file_name(name: str | os.PathLike[str]) -> bool:
    """Whether :func:`load_dataset` reads ``name`` as a file of arrays by the names of :func:`files.load`."""
    from dipole_sb3.datasets import remote

    name = remote.located(name)
    path = Path(name)
    if path.is_dir() or path.suffix == ".pkl" or is_recording(name):
        return False
    return not isinstance(name, str) or path.suffix in FILE_SUFFIXES or path.is_file()


def is_recording(name: str | os.PathLike[str]) -> bool:
    """Whether :func:`load_dataset` reads ``name`` as a data set of LeRobot or robomimic."""
    from dipole_sb3.datasets import lerobot, remote, robomimic

    path = Path(remote.located(name))
    return lerobot.is_one(path) or robomimic.is_one(path)


def takes_spaces(name: str | os.PathLike[str]) -> bool:
    """Whether the actions of ``name`` are in the environment's units, whose bounds :func:`load_dataset` is to be told.

    All other sources keep scaled actions, and their spaces.
    """
    return is_file_name(name) or is_recording(name)


def _suggestion(name: str) -> str:
    from dipole_sb3.datasets import demo

    known = [f"demo/{shipped}" for shipped in demo.NAMES]
    near = difflib.get_close_matches(name, [*known, *_ogbench_names()], n=3, cutoff=0.6)
    return f"nearest: {', '.join(near)}" if near else f"expected {EXPECTED_NAMES}"


def _ogbench_names() -> list[str]:
    if importlib.util.find_spec("ogbench") is None:
        return []
    from dipole_sb3.datasets import ogbench

    return [f"ogbench/{name}" for name in [*ogbench.single_task_names(), *ogbench.goal_set_names()]]
