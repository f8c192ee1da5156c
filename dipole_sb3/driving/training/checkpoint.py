"""A saved agent: a folder of safetensors files and one JSON file, which is written last and names them.

A file of tensors is called by the checksum of what is in it, and never changes. A process that is killed while it saves
leaves the folder as it was, but for files that nothing names; the next one to save removes them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from dipole_sb3.common.files import replaced_when_complete

MANIFEST = "agent.json"
_FORMAT = 1
_PARTS = ("networks", "adapters", "state")
_FILE = rf"({'|'.join(_PARTS)})-[0-9a-f]{{16}}\.safetensors"
_OURS = re.compile(rf"{_FILE}|\.({_FILE}|{re.escape(MANIFEST)})\..*\.partial")
"""Files of tensors, and what a killed process left of them; a folder may hold others, such as those of Florence-2."""


def write_tensors(folder: Path, part: str, tensors: Mapping[str, Tensor]) -> str:
    """Writes a file of tensors, unless it is there already; gives its name.

    :param part: ``"networks"``, ``"adapters"`` or ``"state"``.
    """
    content = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    name = f"{part}-{hashlib.sha256(content).hexdigest()[:16]}.safetensors"
    if not (folder / name).is_file():
        with replaced_when_complete(folder / name) as file:
            file.write(content)
    return name


def write_manifest(folder: Path, files: Mapping[str, str], values: Mapping[str, Any]) -> None:
    """Makes the files the folder's content, in one step; others that were its content go, and nothing else does.

    :param files: part → name, of :func:`write_tensors`.
    """
    with replaced_when_complete(folder / MANIFEST) as file:
        file.write(json.dumps({"format": _FORMAT, "files": dict(files), **values}, indent=1).encode())
    for path in folder.iterdir():
        if path.name not in files.values() and _OURS.fullmatch(path.name):
            path.unlink()


def read_manifest(folder: Path) -> dict[str, Any]:
    """
    :raises FileNotFoundError: there is no saved agent.
    :raises ValueError: it is damaged, or of another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"{folder}: found no {MANIFEST}, expected a folder that a driving agent was saved to")
    try:
        manifest = json.loads(path.read_bytes())
        found = manifest["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: it is damaged ({error}), expected JSON as a driving agent saves it") from error
    if found != _FORMAT:
        raise ValueError(f"{path}: found format {found}, expected {_FORMAT}")
    return dict(manifest)


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """
    :raises ValueError: the file is missing or damaged.
    """
    path = folder / Path(name).name
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: it cannot be read ({error.strerror}), but {MANIFEST} names it") from error
    expected = path.stem.rpartition("-")[2]
    if hashlib.sha256(content).hexdigest()[:16] != expected:
        raise ValueError(f"{path}: it is damaged; found another checksum than {expected}")
    try:
        return load(content)
    except SafetensorError as error:
        raise ValueError(f"{path}: it is damaged ({error})") from error
