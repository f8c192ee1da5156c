"""Folders of finished parts of a data set in the making, which an interrupted run finds again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from dipole_sb3.common.errors import DatasetError


@contextmanager
def alone(target: Path, folder: Path, lock: str, parts: str) -> Iterator[None]:
    """In this block no other process makes the same data set, and what cannot be written ends in one sentence.

    :param target: what is made.
    :param folder: where the finished parts are.
    :param lock: name of a file beside the target.
    :param parts: what they are called, in the plural.
    :raises DatasetError: another process makes it, or a file cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.parent / lock, timeout=0):
            yield
    except Timeout as error:
        raise DatasetError(f"{target}: another process is making this data set; wait for it to finish") from error
    except OSError as error:
        raise DatasetError(
            f"{error.filename or folder}: cannot be written ({error.strerror}); finished {parts} are kept in "
            f"{folder}, and the same call goes on from there"
        ) from error


def at_least(name: str, least: int, value: int) -> int:
    """The value of an argument.

    :raises ValueError: it is smaller.
    """
    if value < least:
        raise ValueError(f"{name} is {value}; expected an integer >= {least}")
    return value


def open_unfinished(folder: Path, settings: dict[str, Any], parts: str, overwrite: bool) -> None:
    """Creates the folder of finished parts, or reopens one whose settings agree.

    :param folder: where the parts are; its ``settings.json`` says how they are made.
    :param settings: everything that a part's content depends on.
    :param parts: what they are called, in the plural, for messages.
    :param overwrite: discard parts made with other settings.
    :raises DatasetError: parts made with other settings are there.
    """
    noted = folder / "settings.json"
    if folder.exists():
        differing = _differing(noted, settings)
        if differing and not overwrite:
            raise DatasetError(
                f"{folder} holds unfinished {parts} made with other settings ({differing}); repeat those "
                f"settings, or pass overwrite=True to discard the {parts}"
            )
        if differing:
            shutil.rmtree(folder)
    folder.mkdir(exist_ok=True)
    for stray in folder.glob("*.tmp"):
        stray.unlink(missing_ok=True)
    write_json(noted, settings)


def _differing(noted: Path, settings: dict[str, Any]) -> str:
    """Settings that differ, in words; empty when none does."""
    try:
        before = json.loads(noted.read_text())
    except FileNotFoundError:
        return "" if not any(noted.parent.iterdir()) else "settings.json is missing"
    except ValueError:
        return "settings.json is damaged"
    keys = [key for key in settings if before.get(key) != settings[key]]
    return ", ".join(f"{key} {before.get(key)} instead of {settings[key]}" for key in keys)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a small file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)
