"""What bundles and model cards, which are published, tell of files on this machine: their names alone."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

_SOURCES = ("demo/", "exorl/", "minari/", "ogbench/")
"""How names of data begin that :func:`~dipole_sb3.load_dataset` knows; all others are files and folders."""


def public_name(dataset: str) -> str:
    """The name of a data set; of a file, folder or URL, without where it lies, or lay before it was moved."""
    if "://" in dataset:  # whose query may hold a signature
        return Path(urlsplit(dataset).path).name
    return dataset if dataset.startswith(_SOURCES) and not Path(dataset).exists() else Path(dataset).name


def without_folders(text: str) -> str:
    """A text without the folders of absolute paths, which are the machine's own business."""
    return re.sub(r"(?<![\w.:/~-])(?:~\w*)?/(?:[^\s/'\"]+/)*(?=[^\s/'\"])", "", text)
