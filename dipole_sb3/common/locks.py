"""Locks of files and folders that the system frees however their process ends."""

from __future__ import annotations

try:
    import fcntl
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"dipole_sb3 needs a system with fcntl, Linux or macOS ({error}); on Windows install it in WSL 2"
    ) from error


def lock(descriptor: int) -> None:
    """Locks what is open there, for this process alone and until it is closed.

    :raises BlockingIOError: another process has locked it.
    :raises OSError: its file system has no locks.
    """
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
