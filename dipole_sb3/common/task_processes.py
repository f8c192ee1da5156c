"""Processes that make the parts of something, each part whole or not at all."""

from __future__ import annotations

import itertools
import signal
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, TypeVar

from dipole_sb3.common.child_processes import Worker, quiet_children

T = TypeVar("T")

Finish = Callable[[Callable[[Any], None], Sequence[Any], Callable[[Any], str], Path], Iterator[Any]]
"""Makes parts elsewhere: what makes one, the parts, the name of one, and the folder of their files → the parts."""


def finish_tasks(
    make: Callable[[T], None], tasks: Sequence[T], processes: int, name: Callable[[T], str], kept: str
) -> Generator[T, None, None]:
    """Makes parts in worker processes and yields each one once it is complete.

    Workers end with this generator, and by themselves when this process is gone.

    :param make: makes one part; sent to each worker once, so it may keep there what it needs for the next.
    :param tasks: the parts, each once.
    :param processes: workers, ≥ 1.
    :param name: of a part, for messages: ``train episode 7``.
    :param kept: what happens to finished parts when one fails, for messages.
    :raises OSError: a file could not be written.
    :raises DatasetError: a worker was killed.
    :raises RuntimeError: another error, with its traceback.
    """
    workers: dict[Connection, tuple[Worker, T]] = {}
    pending = iter(tasks)
    try:
        with quiet_children():
            for task in itertools.islice(pending, processes):
                worker = Worker.start(_work, make)
                workers[worker.connection] = (worker, task)
        for connection, (_, task) in workers.items():
            _send(connection, task)
        while workers:
            for connection in [ready for ready in wait(list(workers)) if isinstance(ready, Connection)]:
                worker, task = workers[connection]
                _receive(worker, name(task), kept)
                yield task
                following = next(pending, None)
                if following is None:
                    del workers[connection]
                    connection.close()
                    worker.process.join()
                else:
                    _send(connection, following)
                    workers[connection] = (worker, following)
    finally:
        for worker, _ in workers.values():
            worker.end()


def _send(connection: Connection, task: object) -> None:
    # A worker that is gone is reported, with its exit code, when its answer is waited for.
    with suppress(BrokenPipeError, ConnectionResetError):
        connection.send(task)


def _receive(worker: Worker, name: str, kept: str) -> None:
    """Waits for 'done' (None); anything else ends the whole run."""
    failure = worker.receive(f"the worker process that made {name}", kept)
    if isinstance(failure, OSError):
        raise failure
    if failure is not None:
        raise RuntimeError(f"{name} failed in its worker process:\n{failure}")


def _work(connection: Connection, make: Callable[[T], None]) -> None:
    """What a worker does: a part for every task it receives, until the other side closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while True:
            connection.send(_attempt(make, connection.recv()))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        sys.exit(0)


def _attempt(make: Callable[[T], None], task: T) -> OSError | str | None:
    """Makes one part; returns what went wrong."""
    try:
        make(task)
    except OSError as error:
        return OSError(error.errno, error.strerror, str(error.filename))
    except Exception:
        # Sent as text, to be raised by the parent: not every exception survives pickling.
        return traceback.format_exc()
    return None
