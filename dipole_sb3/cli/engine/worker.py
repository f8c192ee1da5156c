"""What a process of the cluster does: one task, telling how far it is and sending its files where they are missing."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from dipole_sb3.cli import errors
from dipole_sb3.cli.claim import FolderClaimedError
from dipole_sb3.cli.engine import Task
from dipole_sb3.cli.engine.parcels import Parcel, Receiver, Sender, names

_SECONDS_BETWEEN_PARCELS = 2.0
_SECONDS_BETWEEN_WORDS = 0.5
_SECONDS_FOR_A_CLAIM = 180.0
"""How long the process of a task that was killed, or whose machine is gone, may take to free its folders.

A server of NFS waits for a lost machine for 90 seconds, as Linux has it.
"""

_COPY = ".copy"
"""Hidden file in a folder that holds nothing but what a task has brought here and made of it."""


class Place(NamedTuple):
    """Where the command runs, and what its tasks need of it.

    :param directory: working directory.
    :param environment: variables that tasks are to have, too.
    :param threads: of PyTorch in a task.
    """

    directory: str
    environment: Mapping[str, str]
    threads: int


class Order(NamedTuple):
    """A task on its way to a process.

    :param attempt: a name that no other attempt has, not even of the same task.
    :param mark: a hidden file that the command has put into a folder of the task; who finds it sees the folders
        themselves.
    :param files: content of the folders, by path, for who does not.
    """

    attempt: str
    task: Task
    mark: Path
    files: Mapping[str, bytes]


class Outcome(NamedTuple):
    """How a task has ended.

    :param end: ``"stopped"``: it can go on.
    :param value: what its work returned.
    :param message: what went wrong.
    """

    end: Literal["done", "stopped", "failed"]
    value: Any = None
    message: str = ""


class Office(NamedTuple):
    """What a task says to the command, by functions that return at once, except ``send``."""

    tell: Any
    send: Any


def perform(order: Order, place: Place, office: Office) -> Outcome:
    """Does a task's work in this process, which is its own."""
    os.environ.update(place.environment)
    torch.set_num_threads(place.threads)
    if os.path.isdir(place.directory):
        os.chdir(place.directory)
    shared = _sees(order)
    office.tell(order.attempt, f"begins on {socket.gethostname()}", 0.0)
    try:
        with contextlib.ExitStack() as opened:
            if not shared:
                if not os.path.isdir(place.directory):
                    os.chdir(opened.enter_context(tempfile.TemporaryDirectory(prefix="dipole-")))
                    opened.callback(os.chdir, os.sep)
                opened.enter_context(_sending(order, office))
            return Outcome("done", _work(order, office))
    except KeyboardInterrupt:
        return Outcome("stopped")
    except SystemExit as stopped:
        return Outcome("stopped") if stopped.code else Outcome("done")
    except Exception as error:
        if errors.was_interrupted(error):
            return Outcome("stopped")
        if isinstance(error, errors.USER_ERRORS):
            return Outcome("failed", message=errors.sentence(error))
        return Outcome("failed", message=traceback.format_exc())


def _copy_of(path: Path) -> Path:
    """The hidden file beside a file that a task has brought here."""
    return path.with_name(f".{path.name}{_COPY}")


def _sees(order: Order) -> bool:
    """Whether this machine shares the folders with the command's."""
    try:
        return order.mark.name in os.listdir(order.mark.parent)  # a network file system looks anew for a listing
    except OSError:
        return False


def _work(order: Order, office: Office) -> Any:
    said = 0.0

    def tell(what: str, part: float) -> None:
        nonlocal said
        now = time.monotonic()
        if now - said >= _SECONDS_BETWEEN_WORDS:
            said = now
            office.tell(order.attempt, what, part)

    until = time.monotonic() + _SECONDS_FOR_A_CLAIM
    while True:
        try:
            return order.task.work(tell)
        except FolderClaimedError:
            if time.monotonic() > until:
                raise
            time.sleep(1.0)


@contextlib.contextmanager
def _sending(order: Order, office: Office) -> Iterator[None]:
    """Brings the files here, and sends what becomes of them while the block lasts, and at its end, whatever ends it."""
    folders = order.task.folders
    own = [folder for folder in folders if folder in order.task.reads]
    for folder in own:
        if names([folder]) and not (folder / _COPY).exists():
            raise ValueError(
                f"{folder}: on {socket.gethostname()}, which does not share this folder with the command's machine, "
                "there are other files in it; expected another run_dir, or none of them"
            )
    beside = [Path(name) for name in order.files if not any(Path(name).is_relative_to(folder) for folder in own)]
    for path in beside:
        if path.exists() and not _copy_of(path).exists() and path.read_bytes() != order.files[str(path)]:
            raise ValueError(
                f"{path}: on {socket.gethostname()}, which does not share this file with the command's machine, there "
                "is another one of that name; expected none, or another working directory"
            )
    for path in beside:
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            _copy_of(path).touch()
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    for folder in own:
        (folder / _COPY).touch()
    # What an earlier task has left here, and the command's machine does not have, is of no run any more.
    Receiver(names(own)).unpack(Parcel(order.files, frozenset(order.files)))
    sender, ended = Sender(folders), threading.Event()
    sender.pack()
    sender.sent()

    def send() -> None:
        parcel = sender.pack()
        if parcel is not None:
            office.send(order.attempt, parcel)
            sender.sent()

    def send_now_and_then() -> None:
        while not ended.wait(_SECONDS_BETWEEN_PARCELS):
            try:
                send()
            except Exception as error:  # what is missing is sent next time, or at the end
                print(f"dipole: files were not sent: {error}", file=sys.stderr)

    thread = threading.Thread(target=send_now_and_then, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        send()
