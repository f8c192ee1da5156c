"""The files in the folder of a training run: how they are written, found and read."""

from __future__ import annotations

import csv
import datetime
import itertools
import json
import re
import sys
import zipfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HumanOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
)
from torch.utils.tensorboard import SummaryWriter

from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common.files import replaced_when_complete
from dipole_sb3.learning import profiling
from dipole_sb3.learning.model_card import data_facts

CONFIG = "config.yaml"
REPLACING = "replacing.yaml"
"""The configuration of a run that is to replace the one in the folder as soon as it has its data."""
DATASET = "dataset.json"
MODEL = "model.zip"
PROGRESS = "progress.csv"
CHECKPOINTS = "checkpoints"
CHECKPOINT_PREFIX = "model"
EVALUATED = "evaluated"
"""Subfolder of a run's folder for evaluations made after the run."""
PROFILE = "profile"
STOPPED = "stopped.json"
"""File of a run that a callback ended before its time: after how many timesteps."""

_LEFT_BY_RUNS = (
    CONFIG,
    REPLACING,
    DATASET,
    MODEL,
    PROGRESS,
    STOPPED,
    f"{CHECKPOINTS}/{CHECKPOINT_PREFIX}_*_steps.zip",
    "evaluations/evaluations.npz",
    "events.out.tfevents.*",
    "*_sweep.csv",
    "evaluation.csv",
    *(f"{PROFILE}/{name}" for name in (profiling.TABLE, profiling.TRACE)),
    *(f"{name}.png" for name in ("*_sweep", "evaluation", "curves", "weights", "paths", "actions", "film")),
    *(f"{name}.gif" for name in ("arm", "film")),
)


def is_used(folder: Path) -> bool:
    """Whether there is a run in the folder."""
    return (folder / CONFIG).exists()


def has_curves(folder: Path) -> bool:
    """Whether a run's progress.csv has a row of training statistics."""
    file = folder / PROGRESS
    if not file.is_file():
        return False
    with file.open(newline="", encoding="utf-8") as opened:
        return any(
            value for row in csv.DictReader(opened) for name, value in row.items() if str(name).startswith("train/")
        )


def require_unused(folder: Path) -> None:
    """Refuses a folder that already has a run, whose checkpoints would be mistaken for those of the new run.

    :raises ValueError: the folder has a run; the message says what can be done.
    """
    if is_used(folder):
        raise ValueError(
            f"{folder}: holds a run already; go on with it by resume={folder}, replace it by replace=true, or give "
            "another run_dir"
        )


def clear(folder: Path) -> None:
    """Removes the files of an earlier run, and nothing else."""
    for pattern in _LEFT_BY_RUNS:
        for path in folder.glob(pattern):
            path.unlink()


def is_being_replaced(folder: Path) -> bool:
    """Whether another run is to replace the one in the folder, of which nothing is to be gone on with."""
    return (folder / REPLACING).exists()


def write_config(folder: Path, config: DictConfig, name: str = CONFIG) -> None:
    """Writes the resolved configuration."""
    with replaced_when_complete(folder / name) as file:
        file.write(OmegaConf.to_yaml(config, resolve=True).encode())


def read_config(folder: Path) -> DictConfig:
    """The resolved configuration of a run.

    :raises FileNotFoundError: the folder is not that of a run.
    """
    path = folder / (REPLACING if is_being_replaced(folder) else CONFIG)
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: no {CONFIG} in it; expected the folder of a training run")
    config = OmegaConf.load(path)
    assert isinstance(config, DictConfig)
    return config


def write_stopped(folder: Path, timesteps: int) -> None:
    """Notes that a callback has ended the training."""
    with replaced_when_complete(folder / STOPPED) as file:
        file.write(f"{json.dumps({'timesteps': timesteps})}\n".encode())


def stopped_after(folder: Path) -> int | None:
    """The number of timesteps after which a callback has ended the training; None: none has."""
    path = folder / STOPPED
    if is_being_replaced(folder) or not path.is_file():
        return None
    return int(json.loads(path.read_text(encoding="utf-8"))["timesteps"])


def write_dataset_facts(folder: Path, dataset: OfflineReplayBuffer) -> None:
    """Writes what is known about the data (provenance, returns, checksum), for pictures and for people."""
    with replaced_when_complete(folder / DATASET) as file:
        file.write(f"{json.dumps(data_facts(dataset), indent=2, ensure_ascii=False, default=str)}\n".encode())


def read_dataset_facts(folder: Path) -> dict[str, Any]:
    """Reads the file of :func:`write_dataset_facts`; empty if there is none."""
    path = folder / DATASET
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def newest_model(folder: Path) -> Path | None:
    """The model with the most timesteps: model.zip, unless the run was extended and has a later checkpoint."""
    pattern = re.compile(rf"{CHECKPOINT_PREFIX}_(\d+)_steps\.zip")
    steps = [
        (int(match[1]), path)
        for path in (folder / CHECKPOINTS).glob("*.zip")
        if (match := pattern.fullmatch(path.name)) is not None
    ]
    if (folder / MODEL).is_file():
        steps.append((timesteps_of(folder / MODEL), folder / MODEL))
    # max() returns the first of equals; reversed, so that this is the finished model.
    return max(reversed(steps), key=lambda pair: pair[0])[1] if steps else None


def timesteps_of(model: Path) -> int:
    """The number of timesteps that SB3 stores in a saved model.

    :raises ValueError: the file is not a complete model.
    """
    try:
        with zipfile.ZipFile(model) as archive:
            return int(json.loads(archive.read("data"))["num_timesteps"])
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{model}: not a complete model ({error}); remove it to go on from a checkpoint") from error


def new_evaluation(run: Path, taken: Collection[Path] = ()) -> Path:
    """An unused folder for an evaluation of a run, named by the current time.

    :param taken: folders that are not there yet and will be used.
    """
    base = run / EVALUATED / datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    names = itertools.chain([base.name], (f"{base.name}-{number}" for number in itertools.count(2)))
    folders = (base.with_name(name) for name in names)
    return next(folder for folder in folders if folder not in taken and not folder.exists())


class ContinuedCSV(CSVOutputFormat):
    """SB3's progress.csv, continued after the rows that it had at a checkpoint.

    :param path: the file.
    :param rows: number of rows at the checkpoint; later rows are dropped, because they will be written again.
    :param columns: names of the columns at the checkpoint.
    """

    def __init__(self, path: Path, rows: int, columns: Sequence[str]) -> None:
        before: list[dict[str, str]] = []
        if path.is_file():
            with open(path, newline="", encoding="utf-8") as file:
                before = list(csv.DictReader(file))[:rows]
        super().__init__(str(path))
        self.keys = list(columns)
        if columns:
            kept = csv.DictWriter(self.file, self.keys, extrasaction="ignore", lineterminator="\n")
            kept.writeheader()
            kept.writerows(before)
        self.file.flush()


class ContinuedTensorBoard(TensorBoardOutputFormat):
    """SB3's TensorBoard events, continued after a timestep; TensorBoard drops later events of an earlier process.

    :param folder: folder of the events.
    :param timesteps: the last timestep that is kept.
    """

    def __init__(self, folder: Path, timesteps: int) -> None:
        # SB3's constructor is not called, because its writer would create one more file.
        self._is_closed = False
        self.writer = SummaryWriter(log_dir=str(folder), purge_step=timesteps + 1)


def make_logger(
    folder: Path,
    timesteps: int,
    position: Mapping[str, Any] | None,
    verbose: int,
    others: Sequence[KVWriter] = (),
) -> Logger:
    """SB3's logger, which writes progress.csv and TensorBoard events to the folder, and to the terminal if verbose.

    :param folder: folder of the run.
    :param timesteps: timestep at which the run continues.
    :param position: None for a new run, else :func:`~dipole_sb3.learning.checkpoints.log_position` of its checkpoint.
    :param verbose: 0: nothing on the terminal.
    :param others: further writers.
    """
    formats: list[KVWriter] = [HumanOutputFormat(sys.stdout)] if verbose else []
    progress = folder / PROGRESS
    if position is None:
        formats += [CSVOutputFormat(str(progress)), TensorBoardOutputFormat(str(folder))]
    else:
        formats.append(ContinuedCSV(progress, position["rows"] or 0, position["columns"] or ()))
        formats.append(ContinuedTensorBoard(folder, timesteps))
    return Logger(str(folder), [*formats, *others])
