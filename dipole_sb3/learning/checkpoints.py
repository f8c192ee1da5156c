"""Checkpoints that hold the whole state of a run: a killed run continues as if it had never stopped."""

from __future__ import annotations

import csv
import json
import os
import pathlib
import re
import time
import warnings
import zipfile
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from stable_baselines3.common.logger import CSVOutputFormat, Logger
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.common.vec_env import VecEnv

from dipole_sb3.common.archived_state import read_state, write_state
from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.files import problem_of_model, replaced_when_complete
from dipole_sb3.common.profiler_sections import section
from dipole_sb3.common.random_state import restore_global_generators
from dipole_sb3.common.trust import require_trust
from dipole_sb3.common.version import VERSION
from dipole_sb3.learning import replayable_episodes
from dipole_sb3.learning.callbacks import IterationCallback
from dipole_sb3.learning.delayed_log import complete_log

KEPT = 2
"""Checkpoints in a folder: the newest, and one to fall back to."""

_FORMAT = 1
_STATE = "run"
_NAME = re.compile(r"model_(\d+)_steps\.zip")


class ResumableModel(Protocol):
    """What a checkpoint needs from a model; see :class:`~dipole_sb3.learning.offline_algorithm.OfflineAlgorithm`."""

    env: VecEnv | None
    dataset: Any
    num_timesteps: int
    logger: Logger

    @property
    def goes_online(self) -> bool: ...

    @property
    def is_inside_an_episode(self) -> bool: ...

    def begin_new_episodes(self) -> None: ...

    def when_learning_begins(self, listener: Callable[[], None] | None) -> None: ...

    def generators_of_run(self) -> dict[str, Any]: ...

    def run_state(self) -> dict[str, Any]: ...

    def restore_run_state(self, state: Mapping[str, Any], where: str) -> None: ...

    def save(self, path: Any) -> None: ...


class ResumableCheckpoint(IterationCallback):
    """Saves the whole state of a run at regular intervals, for :meth:`DIPOLE.resume`; keeps two checkpoints.

    SB3's CheckpointCallback saves only the model. This one also saves everything else that the run depends on:
    transitions gathered online, where the environments are in their episodes (:class:`ReplayableEpisodes`),
    VecNormalize's statistics, all random generators, and the position in the log. ``load`` reads a checkpoint like any
    saved model. The file gets its name, ``model_<timesteps>_steps.zip``, only once it is complete and on disk. The data
    set is not part of it, only its name and checksum.

    :param save_freq: timesteps between checkpoints, at least 0, counted over all environments; online, a checkpoint is
        taken at the end of the rollout that reaches its timestep. 0: only when :meth:`save` is called.
    :param save_path: folder for the checkpoints of this run alone.
    :param verbose: 1: print the path of every checkpoint.
    :param save_minutes: minutes between checkpoints, at least 0, beside ``save_freq``, whose checkpoints count; so that
        a run that is killed loses no more than that, however slow it is. 0: none.
    :raises ValueError: ``save_freq`` or ``save_minutes`` is negative, or a new run begins in a folder that holds
        checkpoints.
    :raises OSError: a checkpoint cannot be written (for example, the disk is full). This ends ``learn``; earlier
        checkpoints stay as they are.
    """

    model: Any

    def __init__(
        self, save_freq: int, save_path: str | pathlib.Path, verbose: int = 0, save_minutes: float = 0.0
    ) -> None:
        super().__init__(verbose)
        for name, value in (("save_freq", save_freq), ("save_minutes", save_minutes)):
            if not value >= 0:
                raise ValueError(f"{name} is {value}, expected at least 0")
        self.save_minutes = save_minutes
        self._clock = time.monotonic()
        self.save_freq = save_freq
        self.save_path = pathlib.Path(save_path)
        self._saved_at = -1

    def _on_training_start(self) -> None:
        super()._on_training_start()
        start = self.model.num_timesteps
        beyond = [path for steps, path in _checkpoints(self.save_path) if steps > start]
        if beyond and start == 0:
            raise ValueError(
                f"{self.save_path}: holds checkpoints of a run already ({beyond[0].name}); go on with it by resume(), "
                "or give another folder"
            )
        # These are damaged, or the run was resumed from an earlier checkpoint: they will be written again.
        for path in (*beyond, *self.save_path.glob(".model_*_steps.zip.*.partial")):
            path.unlink()
        self._saved_at, self._clock = start, time.monotonic()
        env = self.model.env
        if self.model.goes_online and env is not None and not replayable_episodes.replayable(env):
            warnings.warn(
                "the environment keeps no record of its episodes: an interrupted run will go on with new ones, and not "
                "as if it had never stopped; expected ReplayableEpisodes around every environment",
                stacklevel=2,
            )

    def _on_iteration_end(self) -> bool:
        minutes = (time.monotonic() - self._clock) / 60.0
        by_steps = self.save_freq and self.model.num_timesteps // self.save_freq > self._saved_at // self.save_freq
        if by_steps or (self.save_minutes and minutes >= self.save_minutes):
            self.save()
        return True

    def save(self) -> pathlib.Path:
        """Saves a checkpoint now, unless this timestep already has one, and removes all but the last two.

        Call it only at the end of an iteration: in an IterationCallback, or after ``learn`` has returned.

        :return: the checkpoint's file.
        """
        path = self.save_path / f"model_{self.model.num_timesteps}_steps.zip"
        if self._saved_at != self.model.num_timesteps or not path.is_file():
            with section("checkpoint"):
                save_checkpoint(self.model, path)
            if self.verbose:
                print(f"Saved {path}")
        self._saved_at, self._clock = self.model.num_timesteps, time.monotonic()
        for _, old in _checkpoints(self.save_path)[KEPT:]:
            old.unlink()
        return path


def save_checkpoint(model: ResumableModel, path: pathlib.Path) -> None:
    """Writes a model with the whole state of its run; the file gets its name only once it is complete.

    Waits for an evaluation that is still running, because a run that continues from here does not repeat it.

    :param model: model at the end of an iteration.
    :param path: a .zip file.
    :raises OSError: it cannot be written; an earlier file of that name is untouched.
    """
    complete_log(model.logger)
    with replaced_when_complete(path) as file:
        model.save(file)
        file.seek(0)
        with zipfile.ZipFile(file, "a") as archive:
            write_state(archive, _STATE, _state_of_run(model))


def newest_checkpoint(folder: str | pathlib.Path) -> tuple[pathlib.Path, list[str]]:
    """The undamaged checkpoint with the most timesteps.

    :param folder: folder of the checkpoints.
    :return: its file, and a sentence for each newer checkpoint that is damaged.
    :raises FileNotFoundError: there is no checkpoint.
    :raises ValueError: all checkpoints are damaged.
    """
    damaged: list[str] = []
    for _, path in _checkpoints(pathlib.Path(folder)):
        with open(path, "rb") as file:
            problem = problem_of_model(file)
        if problem is None:
            return path, damaged
        damaged.append(f"{path}: it {problem}")
    if damaged:
        raise ValueError(f"no checkpoint in {folder} is whole: {'; '.join(damaged)}")
    raise FileNotFoundError(f"{folder}: no checkpoint in it to go on from; expected a file like model_1000_steps.zip")


def log_position(path: pathlib.Path) -> dict[str, Any]:
    """The log's position at a checkpoint: ``rows`` and ``columns`` of progress.csv, None without that file."""
    with zipfile.ZipFile(path) as archive:
        return dict(json.loads(archive.read(f"{_STATE}/state.json"))["log"])


def resume(
    algorithm: type[Any],
    path: str | pathlib.Path,
    env: GymEnv | None,
    dataset: Any,
    device: torch.device | str,
    **arguments: Any,
) -> Any:
    """See :meth:`dipole_sb3.learning.offline_algorithm.OfflineAlgorithm.resume`."""
    path = pathlib.Path(path)
    if path.is_dir():
        path, damaged = newest_checkpoint(path)
        for sentence in damaged:
            warnings.warn(f"{sentence}; going on from {path.name}", stacklevel=3)
    require_trust(path, "resuming a run")
    state = _read_checkpoint(path)
    known = state["dataset"]
    if known is not None and dataset is None:
        raise DatasetError(
            f"{path}: the run learned from {known['source']} (checksum {known['checksum']}), which is not part of the "
            "checkpoint; expected the same data as dataset="
        )
    model: ResumableModel = algorithm.load(path, env, device, force_reset=False, dataset=dataset, **arguments)
    _require_same_dataset(path, model, known)
    _restore_run(path, model, state)
    return model


def _checkpoints(folder: pathlib.Path) -> list[tuple[int, pathlib.Path]]:
    """(timesteps, file), newest first."""
    found = [(int(match[1]), path) for path in folder.glob("*.zip") if (match := _NAME.fullmatch(path.name))]
    return sorted(found, reverse=True)


def _read_checkpoint(path: pathlib.Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        problem = problem_of_model(file)
    if problem is not None:
        raise ValueError(f"cannot go on from {path}: it {problem}")
    with zipfile.ZipFile(path) as archive:
        try:
            found = json.loads(archive.read(f"{_STATE}/state.json"))["format"]
        except KeyError as error:
            raise ValueError(
                f"cannot go on from {path}: it is a model without the state of a run (from save() or an earlier "
                "version); expected a checkpoint of ResumableCheckpoint"
            ) from error
        if found != _FORMAT:
            raise ValueError(f"cannot go on from {path}: found a checkpoint of format {found}, expected {_FORMAT}")
        return read_state(archive, _STATE)


def _state_of_run(model: ResumableModel) -> dict[str, Any]:
    """What a run depends on besides the model, its optimiser and its own generator, which the model's file holds."""
    return {
        "format": _FORMAT,
        "version": VERSION,
        **model.run_state(),
        "episodes": None if model.env is None else replayable_episodes.episode_states(model.env),
        "generators": model.generators_of_run(),
        "log": _state_of_log(model.logger),
    }


def _restore_run(path: pathlib.Path, model: ResumableModel, state: Mapping[str, Any]) -> None:
    model.restore_run_state(state, str(path))
    if model.env is not None:
        difference = _take_up_episodes(model, model.env, state["episodes"])
        if difference is not None:
            model.begin_new_episodes()
            warnings.warn(
                f"{path}: {difference}; the run goes on with new episodes, not as if it had never stopped", stacklevel=4
            )

    def before_learning() -> None:
        restore_global_generators(state["generators"])
        _restore_log(model.logger, state["log"])

    model.when_learning_begins(before_learning)


def _take_up_episodes(model: ResumableModel, env: VecEnv, states: list[dict[str, Any]] | None) -> str | None:
    """Continues the running episodes; returns why that is not possible, or None."""
    known = states is not None and replayable_episodes.replayable(env)
    if not model.is_inside_an_episode:
        # Between episodes the number of environments may change; their sequences of seeds then start again.
        if states is not None and known and len(states) == env.num_envs:
            replayable_episodes.continue_seeds(env, states)
        return None
    if states is None:
        return "its environments kept no record of their episodes"
    return (
        replayable_episodes.play_again(env, states)
        if known
        else "env= has no ReplayableEpisodes around every environment"
    )


def _require_same_dataset(path: pathlib.Path, model: ResumableModel, known: Mapping[str, Any] | None) -> None:
    if model.dataset is None:
        return
    if known is None:
        raise DatasetError(f"{path}: found dataset={model.dataset.source}, but the run learned without a data set")
    if model.dataset.checksum != known["checksum"]:
        raise DatasetError(
            f"{model.dataset.source}: it is not the data that the run in {path} learned from; found checksum "
            f"{model.dataset.checksum}, expected {known['checksum']} of {known['source']}"
        )


def _state_of_log(logger: Logger) -> dict[str, Any]:
    """Rows in progress.csv (flushed to disk, as the checkpoint will be), and values recorded for the next row."""
    position: dict[str, Any] = {"rows": None, "columns": None}
    for output in logger.output_formats:
        if isinstance(output, CSVOutputFormat):
            output.file.flush()
            os.fsync(output.file.fileno())
            with open(output.file.name, newline="", encoding="utf-8") as file:
                position = {"rows": max(sum(1 for _ in csv.reader(file)) - 1, 0), "columns": list(output.keys)}
    numbers = {
        name: value for name, value in logger.name_to_value.items() if isinstance(value, int | float | str | np.generic)
    }
    return {
        **position,
        "values": numbers,
        "counts": {name: logger.name_to_count[name] for name in numbers},
        "excluded": {name: logger.name_to_excluded[name] for name in numbers},
    }


def _restore_log(logger: Logger, state: Mapping[str, Any]) -> None:
    logger.name_to_value.update(state["values"])
    logger.name_to_count.update(state["counts"])
    logger.name_to_excluded.update(state["excluded"])
