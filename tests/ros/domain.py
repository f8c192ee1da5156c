"""A ROS domain for one test process: not another run's, not that of any program on this machine."""

from __future__ import annotations

import fcntl
import functools
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import IO

DOMAINS = range(1, 99)
"""Their ports lie below those that Linux gives to other programs' connections.

99 and 100 are left to the tests of this file.
"""
_PARTICIPANTS = 10


class Domain:
    """Held until this process ends, however it ends: the operating system gives the lock back.

    :param among: the candidates; one is drawn.
    :param folder: of the lock files, which stay there.
    :raises RuntimeError: all are in use.
    """

    def __init__(self, among: range = DOMAINS, folder: Path | None = None) -> None:
        for number in random.sample(among, len(among)):
            lock = _locked((folder or Path(tempfile.gettempdir())) / f"dipole_tests_ros_domain_{number}.lock")
            if lock is not None and not is_used(number):
                self.number, self._lock = number, lock
                return
            if lock is not None:
                lock.close()
        raise RuntimeError(f"none of the ROS domains {among.start} to {among.stop - 1} is free")

    def release(self) -> None:
        """Gives it back before the process ends."""
        self._lock.close()


@functools.cache
def own_domain() -> Domain:
    """That of this process."""
    return Domain()


def _locked(path: Path) -> IO[bytes] | None:
    """The file, open and locked; None if it is another's."""
    try:
        # Readable is enough for a lock: the file may be another user's.
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_CREAT, 0o644), "rb")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def is_used(number: int) -> bool:
    """Whether a program on this machine has one of the domain's ports, as the DDS standard numbers them."""
    base = 7400 + 250 * number
    # That of multicast discovery, and those of the first participants' unicast discovery.
    for port in (base, *(base + 10 + 2 * participant for participant in range(_PARTICIPANTS))):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                return True
    return False
