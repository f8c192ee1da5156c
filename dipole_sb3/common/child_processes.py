"""Processes that work for this one: quiet, single-threaded, and without the user's script in them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import ModuleType
from typing import Any, NamedTuple

from dipole_sb3.common.errors import DatasetError

_ENVIRONMENT = {
    # Their matrices are too small to share among cores, and results must not depend on the number of threads.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    # They render nothing, so they need no graphics driver.
    "MUJOCO_GL": "disable",
}

_SECONDS_TO_FINISH = 60.0
"""From SIGTERM to a whole group until a process that serves another of them ends."""


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Processes started inside do not hear Ctrl-C, which is this process's to handle; for it, none is lost.

    Nor SIGUSR1, by which schedulers warn every process of a job, and which would end those. The signals are held back,
    not ignored: they arrive when the block ends, or inside of it by another thread.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    # It hears no Ctrl-C and no SIGTERM, but lets both through here when it starts.
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def quiet_children() -> Iterator[None]:
    """Processes started inside are single-threaded and ignore Ctrl-C, which is this process's to handle."""
    before = {key: os.environ.get(key) for key in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        with without_interrupts():
            yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@contextmanager
def without_script() -> Iterator[None]:
    """Processes spawned inside do not import the script that is running.

    Otherwise a script without ``if __name__ == "__main__":`` would load its data set once more in every worker, which
    would wait there for the lock that this process holds.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def hear_only_the_parent() -> None:
    """For a process that ends when its pipe closes: Ctrl-C and a scheduler's signals to the whole group pass it by.

    :func:`without_interrupts` alone does not do that for a process which is forked by a server that has been there
    before. The parent's own ``terminate()`` is a SIGTERM as well, so that one still ends this process, but late enough
    for the parent to finish what it is doing.
    """

    def end_later(*_: Any) -> None:
        timer = threading.Timer(_SECONDS_TO_FINISH, os._exit, (1,))
        timer.daemon = True
        timer.start()

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, end_later)
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, signal.SIG_IGN)


def live_and_die_with_parent(stop: Connection | None = None) -> None:
    """For a process that waits for work: it ends with its parent, and no signal to the whole group ends it before.

    Ctrl-C, and SIGTERM from a cluster's scheduler, reach all processes of a command; its first one decides what happens
    then, and may want to finish first what the others are doing.

    :param stop: the other side may end this process by sending anything, or by closing it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    signs: list[Any] = [] if parent is None else [parent.sentinel]

    def end() -> None:
        wait([*signs, *([] if stop is None else [stop])])
        os._exit(1)

    if signs or stop is not None:
        threading.Thread(target=end, daemon=True).start()


def available_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker(NamedTuple):
    """A process, and this side of the pipe to it."""

    connection: Connection
    process: SpawnProcess

    @classmethod
    def start(cls, work: Callable[..., None], *arguments: Any) -> Worker:
        """Starts a process that calls ``work(connection, *arguments)``, with the other side of the pipe.

        It ends with this one; inside :func:`quiet_children`, quietly.
        """
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, *arguments), daemon=True)
        process.start()
        theirs.close()  # else the worker's death would not close the pipe
        return cls(ours, process)

    def receive(self, who: str, kept: str) -> Any:
        """What the worker sends next.

        :param who: the worker, for the message of its death.
        :param kept: what happens to earlier results, for the same message.
        :raises DatasetError: it has died, between two messages or in the middle of one.
        """
        try:
            return self.connection.recv()
        except (EOFError, OSError) as error:
            self.process.join()
            raise DatasetError(
                f"{who} ended with exit code {self.process.exitcode} (negative: killed by that signal, often for lack "
                f"of memory; positive: its message is above); {kept}"
            ) from error

    def end(self) -> None:
        """Ends the process at once."""
        self.process.terminate()
        self.process.join()
        self.connection.close()
