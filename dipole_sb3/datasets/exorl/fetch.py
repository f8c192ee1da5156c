"""ExORL's published archives, fetched to where the loader looks for them."""

from __future__ import annotations

import shutil
from pathlib import Path

from filelock import FileLock, Timeout

from dipole_sb3.common.errors import DatasetError
from dipole_sb3.datasets.downloads import DamagedArchiveError, download, unpack
from dipole_sb3.datasets.exorl.episodes import episode_name, find_episodes, is_episode_name
from dipole_sb3.datasets.exorl.names import data_directory, parse_recording

URL = "https://dl.fbaipublicfiles.com/exorl/{domain}/{algorithm}.zip"
"""Where ExORL's download script finds the archives."""


def fetch(name: str, *, dataset_dir: str | Path | None = None) -> Path:
    """Downloads one of ExORL's recordings and unpacks its episodes.

    An interrupted download goes on where it stopped. The episodes appear when all of them are complete. The archive is
    removed afterwards; the videos in it are not unpacked.

    :param name: ``{domain}/{algorithm}``, for example ``walker/rnd``.
    :param dataset_dir: folder of all recordings; default ``$EXORL_DATA_DIR``, else ``~/.exorl``.
    :return: the folder of the episodes.
    :raises DatasetError: an unknown name, a failed download, a damaged archive, no room, or another process at
        work.
    """
    recording = parse_recording(name)
    folder = recording.folder(data_directory(dataset_dir))
    episodes = folder / "buffer"
    if episodes.exists():
        find_episodes(folder)
        return episodes
    archive = folder / f"{recording.algorithm}.zip"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".fetch.lock", timeout=0):
            if not archive.exists():
                # Episodes are compressed already: they take as much room again as the archive.
                download(URL.format(domain=recording.domain, algorithm=recording.algorithm), archive, room=1)
            _unpack(archive, folder)
    except Timeout as error:
        raise DatasetError(f"{folder}: another process is fetching {recording}; wait for it to end") from error
    except OSError as error:
        raise DatasetError(f"{folder}: cannot be written ({error.strerror or error})") from error
    return episodes


def _unpack(archive: Path, folder: Path) -> None:
    unfinished = folder / ".unpacking"
    shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed
    unfinished.mkdir()
    try:
        if unpack(archive, unfinished, wanted=_is_episode) == 0:
            raise DamagedArchiveError(
                f"{archive}: holds no episodes; expected buffer/{episode_name(0, 1000)} and others"
            )
        (unfinished / "buffer").rename(folder / "buffer")
    except DamagedArchiveError as error:
        archive.unlink()
        raise DatasetError(f"{error}; it is removed, and the same command fetches it anew") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    archive.unlink()


def _is_episode(name: str) -> bool:
    folder, _, file = name.rpartition("/")
    return folder == "buffer" and is_episode_name(file)
