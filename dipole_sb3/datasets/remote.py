"""Data sets on object stores and web servers: fetched once per machine into a cache, whole, and checked ever after."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.common.files import cannot_write, sha256_of
from dipole_sb3.common.progress import progress_bar
from dipole_sb3.datasets.downloads import require_room
from dipole_sb3.datasets.folders import replaced_folder

NOTE = "fetched.json"
"""The file of a cache entry that says what is in it."""

_CONTENT = ("ETag", "etag", "generation", "md5Hash", "Content-MD5", "crc32c", "Digest", "blob_id")
"""What file systems tell of an object's content; each of them has one of these, if any."""

_TIMES = ("Last-Modified", "LastModified", "last_modified", "mtime", "updated", "created")
"""What they tell of the time of its change, where they tell nothing of its content."""

_IN_THE_EXTRA = ("s3fs", "gcsfs", "huggingface_hub", "aiohttp", "fsspec")

_located: dict[tuple[str, Path], Path] = {}
"""What this process has fetched or checked already: it keeps to the same bytes, whatever becomes of the object."""


def is_url(name: str | os.PathLike[str]) -> bool:
    """Whether a data set's name is an address such as ``s3://bucket/hopper``."""
    return isinstance(name, str) and "://" in name


def without_secrets(url: str) -> str:
    """The address without a user's name, a password or the signature in a query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def cache_folder() -> Path:
    """Where fetched data sets lie: ``$DIPOLE_CACHE``, else ``~/.cache/dipole``."""
    return Path(os.environ.get("DIPOLE_CACHE") or Path.home() / ".cache" / "dipole").expanduser().absolute()


def located(name: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """A data set's name as :func:`~dipole_sb3.load_dataset` reads it: addresses become paths in the cache.

    What is in the cache is compared with its SHA-256 and with what the remote side says of the objects now (size, ETag,
    time of change), once per process; what is damaged or has changed is fetched again. Where the remote side cannot be
    reached, a whole entry is used as it is, with a warning. Of several processes of a machine one fetches, and the
    others wait. An interrupted fetch leaves nothing behind.

    :param name: any name; what is no address is returned as it is.
    :raises DatasetError: one sentence: an unknown kind of address, no such object, access refused, a transfer that
        failed, or an object that arrives with another size than was told.
    :raises ModuleNotFoundError: the package for this kind of address is not installed.
    :raises OSError: the cache cannot be written.
    """
    if not is_url(name):
        return name
    url, cache = str(name), cache_folder()
    if (url, cache) not in _located:
        _located[url, cache] = _located_now(url, cache)
    return _located[url, cache]


def _located_now(url: str, cache: Path) -> Path:
    fs, path = _file_system(url)
    entry = cache / f"{_name_in(path)}-{hashlib.sha256(url.encode()).hexdigest()[:16]}"
    unreachable: _Unreachable | None = None
    objects: dict[str, Mapping[str, Any]] = {}
    try:
        with _failures_told(url):
            objects = _objects(fs, path)
    except _Unreachable as error:
        if not entry.exists():
            raise
        unreachable = error
    stamps = {name: _stamp(fs, info) for name, info in objects.items()}
    with _alone(entry):
        noted = _noted(entry)
        whole = _is_whole(entry, noted)
        if unreachable is not None:
            if not whole:
                raise unreachable
            warnings.warn(f"{unreachable}; what was fetched before is used, in {entry}", stacklevel=2)
        elif not whole or {name: facts["stamp"] for name, facts in noted["files"].items()} != stamps:
            noted = _fetch(fs, url, entry, objects, stamps)
    return entry / str(noted["name"])


@contextmanager
def _alone(entry: Path) -> Iterator[None]:
    """No other process reads or writes the entry in this block; whoever comes second waits."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{entry}.lock")
        lock.acquire()
    except OSError as error:
        raise cannot_write(entry, error) from error
    try:
        yield
    finally:
        lock.release()


def _file_system(url: str) -> tuple[Any, str]:
    from fsspec.core import url_to_fs

    shown = without_secrets(url)
    try:
        fs, path = url_to_fs(url)
    except ImportError as error:
        package = getattr(error.__cause__, "name", None) or getattr(error, "name", None) or str(error)
        bring = "'dipole-sb3[remote]'" if package in _IN_THE_EXTRA else package
        raise ModuleNotFoundError(
            f"{shown}: the package {package} is not installed; it comes with pip install {bring}", name=package
        ) from error
    except ValueError as error:  # a protocol that fsspec does not know, or an address that the protocol does not
        raise DatasetError(f"{shown}: no address of data ({error}); expected one such as s3://bucket/hopper") from error
    except Exception as error:
        raise DatasetError(f"{shown}: cannot be reached ({_one_line(error)})") from error
    # Whoever lists a store keeps the list: what has changed since would not be noticed.
    fs.invalidate_cache()
    return fs, path


class _Unreachable(DatasetError):
    """Neither absent nor refused: the remote side does not answer."""


@contextmanager
def _failures_told(url: str) -> Iterator[None]:
    """Turns what file systems raise, each its own kinds, into one sentence."""
    shown = without_secrets(url)
    try:
        yield
    except DatasetError:
        raise
    except Exception as error:
        if _is_refusal(error):
            raise DatasetError(
                f"{shown}: access is refused ({_one_line(error)}); log in as the store's own tools do"
            ) from error
        if isinstance(error, FileNotFoundError) and not _has_no_answer(error.__cause__):
            raise DatasetError(f"{shown}: there is no such object; expected a file or folder of this name") from error
        reason = error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error
        raise _Unreachable(f"{shown}: cannot be fetched ({_one_line(reason)})") from error


def _is_refusal(error: BaseException) -> bool:
    """Whether the remote side wants another login, or any."""
    while True:
        response = getattr(error, "response", None)
        status = (
            getattr(error, "status", None) or getattr(error, "code", None) or getattr(response, "status_code", None)
        )
        if isinstance(error, PermissionError) or status in (401, 403, "401", "403"):
            return True
        if "Credential" in type(error).__name__:  # of the clouds' own libraries, which are not always installed
            return True
        following = error.__cause__ or error.__context__
        if following is None:
            return False
        error = following


def _has_no_answer(error: BaseException | None) -> bool:
    """Whether a web server was not reached, which fsspec calls a file that is not found."""
    names = [kind.__name__ for kind in type(error).__mro__]
    return any("Connection" in name or "Timeout" in name for name in names)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _objects(fs: Any, path: str) -> dict[str, Mapping[str, Any]]:
    """What is to be fetched: name in the entry → what the file system tells of it.

    Beside a file NAME.npz lies NAME.json, perhaps. Videos of LeRobot's data sets stay where they are: few read them,
    and they are most of such a set.

    :raises FileNotFoundError: there is nothing.
    """
    info = fs.info(path)
    name = _name_in(path)
    # Web servers have no folders, but may show what is in one.
    if info["type"] != "directory" and not path.endswith("/"):
        beside = _beside(path)
        found = {name: info}
        if beside is not None and fs.exists(beside):
            found[PurePosixPath(name).with_suffix(".json").name] = fs.info(beside)
        return found
    files = {_below(path, each): facts for each, facts in fs.find(path, detail=True).items()}
    if not files:
        raise FileNotFoundError(path)
    if "meta/info.json" in files:
        files = {each: facts for each, facts in files.items() if not each.startswith("videos/")}
    return {f"{name}/{each}": facts for each, facts in files.items()}


def _name_in(path: str) -> str:
    """The last part of a path, which may be an address with a query."""
    return PurePosixPath(urlsplit(path).path).name or "data"


def _beside(path: str) -> str | None:
    stem, dot, suffix = path.rpartition(".")
    return f"{stem}.json" if dot and suffix in ("npz", "hdf5", "h5") else None


def _below(folder: str, path: str) -> str:
    """The path of a listed file below its folder; refuses what would lead out of it."""
    parts = PurePosixPath(path.removeprefix(folder).lstrip("/")).parts
    if not path.startswith(folder) or not parts or ".." in parts:
        raise DatasetError(f"{folder}: lists {path!r}, which is not in it")
    return "/".join(parts)


def _stamp(fs: Any, info: Mapping[str, Any]) -> str:
    """What changes when the object does: its size and whatever else the file system tells of its content."""
    told = {key: str(info[key]) for key in _CONTENT if info.get(key)}
    told = told or {key: str(info[key]) for key in _TIMES if info.get(key)}
    return json.dumps({"size": info.get("size"), **(told or {"key": fs.ukey(info["name"])})}, sort_keys=True)


def _noted(entry: Path) -> dict[str, Any]:
    """What is said to be in a cache entry; nothing where there is none, or where that is not to be read."""
    try:
        noted: dict[str, Any] = json.loads((entry / NOTE).read_text(encoding="utf-8"))
        return {"name": str(noted["name"]), "files": {str(key): dict(facts) for key, facts in noted["files"].items()}}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {"name": "", "files": {}}


def _is_whole(entry: Path, noted: Mapping[str, Any]) -> bool:
    try:
        return bool(noted["files"]) and all(
            _sha256(entry / name) == facts.get("sha256") for name, facts in noted["files"].items()
        )
    except OSError:
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return sha256_of(file)


def _fetch(
    fs: Any, url: str, entry: Path, objects: Mapping[str, Mapping[str, Any]], stamps: Mapping[str, str]
) -> dict[str, Any]:
    """Brings all objects into the entry, in place of what was there; what it notes."""
    from fsspec.callbacks import Callback

    class Shown(Callback):  # type: ignore[misc]
        def relative_update(self, inc: int = 1, **_: Any) -> None:
            progress.update(inc)

    total = sum(int(info.get("size") or 0) for info in objects.values())
    require_room(entry.parent, total, f"the download of {without_secrets(url)}")
    noted: dict[str, Any] = {"url": without_secrets(url), "name": next(iter(objects)).partition("/")[0], "files": {}}
    # An entry whose note is damaged is not one that may be replaced, for replaced_folder.
    if entry.is_dir():
        (entry / NOTE).touch()
    with (
        replaced_folder(entry, NOTE, overwrite=True) as folder,
        progress_bar(total=total, desc=entry.name[:-17], unit="B", unit_scale=True) as progress,
    ):
        for name, info in objects.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with _failures_told(url):
                fs.get_file(info["name"], str(path), callback=Shown())
            arrived, told = path.stat().st_size, info.get("size")
            if told is not None and arrived != told:
                raise DatasetError(
                    f"{without_secrets(url)}: {arrived} bytes of {name} arrived, expected {told}; nothing is kept"
                )
            noted["files"][name] = {"size": arrived, "sha256": _sha256(path), "stamp": stamps[name]}
        (folder / NOTE).write_text(json.dumps(noted, indent=2) + "\n", encoding="utf-8")
    return noted
