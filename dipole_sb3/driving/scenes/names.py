"""Names of driving data sets, and where their files live."""

from __future__ import annotations

import os
from pathlib import Path

from dipole_sb3.common.errors import DatasetError

PREFIX = "driving/"
"""How a name of scenes that are made here begins."""
MADE = ("highway-mix",)
"""Scenes that can be made here."""
DIRECTORY_VARIABLE = "DRIVING_DATA_DIR"
"""Environment variable that replaces the default folder, ``~/.dipole/driving``."""
SPLITS = ("train", "test")


def data_directory(dataset_dir: str | Path | None) -> Path:
    """The folder of all made scenes: the argument, else ``$DRIVING_DATA_DIR``, else ``~/.dipole/driving``."""
    return Path(dataset_dir or os.environ.get(DIRECTORY_VARIABLE) or "~/.dipole/driving").expanduser()


def made_name(name: str) -> str:
    """``highway-mix`` of ``driving/highway-mix``.

    :raises DatasetError: no such scenes can be made.
    """
    stem = name.removeprefix(PREFIX)
    if stem not in MADE:
        offered = ", ".join(f"{PREFIX}{one}" for one in MADE)
        raise DatasetError(f"{name} names no driving scenes that can be made; expected {offered}")
    return stem


def scenes_folder(name: str | Path, dataset_dir: str | Path | None) -> Path:
    """The folder of a data set: of made scenes by their name, of others by their path."""
    text = str(name)
    return data_directory(dataset_dir) / made_name(text) if text.startswith(PREFIX) else Path(name).expanduser()
