"""What a training run keeps in its folder, and how it is found again."""

from __future__ import annotations

import csv
import json
import re
import sys
import zipfile
from collections.abc import Mapping
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

from dipole_sb3.persistence import replaced_when_complete

CONFIG = "config.yaml"
DATASET = "dataset.json"
MODEL = "model.zip"
PROGRESS = "progress.csv"
CHECKPOINTS = "checkpoints"
CHECKPOINT_PREFIX = "model"

_LEFT_BY_RUNS = (
    CONFIG,
    DATASET,
    MODEL,
    PROGRESS,
    f"{CHECKPOINTS}/{CHECKPOINT_PREFIX}_*_steps.zip",
    "evaluations/evaluations.npz",
    "events.out.tfevents.*",
    "omega_sweep.csv",
    *(f"{name}.png" for name in ("omega_sweep", "curves", "weights", "paths", "actions")),
)


def require_unused(folder: Path) -> None:
    """Refuses a folder that holds a run already: its checkpoints would be taken for the new run's.

    :raises ValueError: with the two ways out.
    """
    if (folder / CONFIG).exists():
        raise ValueError(
            f"{folder}: holds a run already; go on with it by resume={folder}, replace it by replace=true, or give "
            "another run_dir"
        )


def clear(folder: Path) -> None:
    """Removes what an earlier run left, and nothing else."""
    for pattern in _LEFT_BY_RUNS:
        for path in folder.glob(pattern):
            path.unlink()


def write_config(folder: Path, config: DictConfig) -> None:
    """Leaves the resolved configuration."""
    with replaced_when_complete(folder / CONFIG) as file:
        file.write(OmegaConf.to_yaml(config, resolve=True).encode())


def read_config(folder: Path) -> DictConfig:
    """The resolved configuration of a run.

    :raises FileNotFoundError: the folder is not one of a run.
    """
    if not (folder / CONFIG).is_file():
        raise FileNotFoundError(f"{folder}: no {CONFIG} in it; expected the folder of a training run")
    config = OmegaConf.load(folder / CONFIG)
    assert isinstance(config, DictConfig)
    return config


def write_dataset_facts(folder: Path, metadata: Mapping[str, Any]) -> None:
    """Leaves what is known about the data (provenance, returns), for pictures and for readers."""
    with replaced_when_complete(folder / DATASET) as file:
        file.write(f"{json.dumps(dict(metadata), indent=2, ensure_ascii=False, default=str)}\n".encode())


def read_dataset_facts(folder: Path) -> dict[str, Any]:
    """What :func:`write_dataset_facts` left; empty where it left nothing."""
    path = folder / DATASET
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def checkpoint_path(folder: Path, timesteps: int) -> Path:
    """Named as SB3's CheckpointCallback names them."""
    return folder / CHECKPOINTS / f"{CHECKPOINT_PREFIX}_{timesteps}_steps.zip"


def newest_checkpoint(folder: Path) -> Path | None:
    """The model that has learned longest: the finished one, unless a run made longer left a later checkpoint."""
    pattern = re.compile(rf"{CHECKPOINT_PREFIX}_(\d+)_steps\.zip")
    steps = [
        (int(match[1]), path)
        for path in (folder / CHECKPOINTS).glob("*.zip")
        if (match := pattern.fullmatch(path.name)) is not None
    ]
    if (folder / MODEL).is_file():
        steps.append((_learned_timesteps(folder / MODEL), folder / MODEL))
    # Of equals the one added last: the finished model.
    return max(reversed(steps), key=lambda pair: pair[0])[1] if steps else None


def _learned_timesteps(model: Path) -> int:
    """The count that SB3 keeps inside a saved model."""
    try:
        with zipfile.ZipFile(model) as archive:
            return int(json.loads(archive.read("data"))["num_timesteps"])
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ValueError(f"{model}: not a complete model ({error}); remove it to go on from a checkpoint") from error


class ContinuedCSV(CSVOutputFormat):
    """SB3's progress.csv, which goes on after the rows that an interrupted run left.

    :param path: the file.
    :param timesteps: where the run goes on; rows from beyond will be made again and are dropped.
    """

    def __init__(self, path: Path, timesteps: int) -> None:
        rows: list[list[str]] = []
        if path.is_file():
            with open(path, newline="", encoding="utf-8") as file:
                rows = list(csv.reader(file))
        super().__init__(str(path))
        if not rows or "time/total_timesteps" not in rows[0]:
            return
        self.keys = rows[0]
        column = self.keys.index("time/total_timesteps")
        kept = [
            row for row in rows[1:] if len(row) == len(self.keys) and row[column] and float(row[column]) <= timesteps
        ]
        csv.writer(self.file, lineterminator="\n").writerows([self.keys, *kept])
        self.file.flush()


def make_logger(folder: Path, timesteps: int, verbose: int) -> Logger:
    """SB3's logger into progress.csv and TensorBoard events of the folder, and to the terminal when verbose.

    :param timesteps: 0 for a new run, else where it goes on.
    """
    formats: list[KVWriter] = [HumanOutputFormat(sys.stdout)] if verbose else []
    progress = folder / PROGRESS
    formats.append(ContinuedCSV(progress, timesteps) if timesteps else CSVOutputFormat(str(progress)))
    formats.append(TensorBoardOutputFormat(str(folder)))
    return Logger(str(folder), formats)
