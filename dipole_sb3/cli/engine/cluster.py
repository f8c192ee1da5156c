"""Gives tasks to a Ray cluster and follows them until all have ended.

Ray finds the machines, carries tasks to them and notices when they are gone. Which task goes on, how often and from
where is decided here: a checkpoint is newer than what a task was sent with.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import math
import os
import secrets
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from dipole_sb3.cli import claim
from dipole_sb3.cli.engine import Engine, Task, Tell
from dipole_sb3.cli.engine.parcels import Parcel, Receiver, packed
from dipole_sb3.cli.engine.screen import Screen
from dipole_sb3.cli.engine.worker import Office, Order, Outcome, Place, perform
from dipole_sb3.cli.interrupt import StopOnSignal, ends_with_status, exit_status

RETRIES = 3
"""How often a task begins again after its process or its machine was lost."""

_PASSED_ON = ("AWS_", "DIPOLE_", "EXORL_", "GOOGLE_", "HF_", "MINARI_", "MLFLOW_", "MUJOCO_", "OGBENCH_", "WANDB_")
"""Beginnings of the names of environment variables that tasks are to have: where data are, and who may read them."""


_SHARDS_OF_A_SLOT = 4
"""Tasks for each slot when many small parts are made: so few that starting them costs little, and lost is little."""

T = TypeVar("T")


class TasksFailedError(ValueError):
    """Some tasks ended with an error; the others are done."""


@contextlib.contextmanager
def connected(engine: Engine) -> Iterator[int]:
    """A connection to the cluster in this block; one that is started here ends with it.

    :return: the number of tasks at a time.
    :raises ValueError: there is no such cluster, or no machine of this one could ever do a task.
    :raises ModuleNotFoundError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    ray = _ray()

    address = engine.address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        options["num_cpus"] = max(cores, (engine.slots or 1) * engine.cpus_per_task)
        options |= {"include_dashboard": False, "object_store_memory": 512 * 2**20}
    with ExitStack() as opened:
        opened.enter_context(ends_with_status())
        try:
            _require_answer(address)
            ray.init(address, **options)
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"address={address}: no Ray cluster to work in ({reason})") from error
        opened.enter_context(ends_with_status())  # Ray ends a process that gets SIGTERM with another status
        opened.callback(ray.shutdown)
        yield _slots(engine, own=address == "local")


def _require_answer(address: str) -> None:
    """Ray itself would wait for a minute where nobody listens.

    :raises OSError: nobody does.
    """
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _ray() -> Any:
    """Ray, whose package is an extra and only partly typed."""
    return importlib.import_module("ray")


def _slots(engine: Engine, own: bool) -> int:
    ray = _ray()

    needed = {"CPU": float(engine.cpus_per_task), "GPU": engine.gpus_per_task}
    needed = {name: amount for name, amount in needed.items() if amount}
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    room = sum(room_on(node, needed) for node in nodes)
    if not room:
        wanted = " and ".join(f"{amount:g} {name}" for name, amount in needed.items())
        most = ", ".join(f"{max(node.get(name, 0.0) for node in nodes):g} {name}" for name in needed)
        sentence = f"a task needs {wanted}, and the largest machine of the cluster has {most}"
        if own:
            raise ValueError(f"{sentence}; expected other gpus_per_task= or cpus_per_task=")
        print(f"{sentence}; waiting for a larger one", flush=True)
    return engine.slots or max(room, 1)


def room_on(node: Mapping[str, float], needed: Mapping[str, float]) -> int:
    """How many tasks a machine has room for.

    :param node: name → what it has.
    :param needed: name → what a task needs, > 0.
    """
    return min(int(round(node.get(name, 0.0) / amount, 6)) for name, amount in needed.items())  # 1 // 0.2 is 4


def perform_all(tasks: Sequence[Task], engine: Engine, slots: int, go_on_with: str) -> list[Any]:
    """Does all tasks in the connected cluster, ``slots`` at a time, and shows on one screen how far they are.

    :param go_on_with: what a stopped one names.
    :return: what each task's work returned, in order.
    :raises TasksFailedError: some failed, each in one sentence; the others are done.
    :raises SystemExit: stopped by a signal; every task has saved what it had.
    """
    if not tasks:
        return []
    with ExitStack() as opened:
        following = _Following(tasks, engine, opened)
        opened.callback(following.let_go)
        stop = opened.enter_context(StopOnSignal())
        while not following.ended():
            if stop.stopped_by is None:
                following.begin(slots)
            else:
                following.stop()
            following.look()
    for number, message in sorted(following.failed.items()):
        print(f"dipole: {tasks[number].name}: {message}", file=sys.stderr)
    if stop.stopped_by is not None and len(following.done) < len(tasks):
        print(f"Stopped; {len(following.done)} of {len(tasks)} tasks are done\nGo on with\n  {go_on_with}", flush=True)
        raise SystemExit(exit_status(stop.stopped_by))
    if following.failed:
        raise TasksFailedError(f"{len(following.failed)} of {len(tasks)} tasks failed; go on with\n  {go_on_with}")
    return [following.done[number] for number in range(len(tasks))]


def finish_parts(
    engine: Engine, slots: int, make: Callable[[T], None], parts: Sequence[T], name: Callable[[T], str], folder: Path
) -> Iterator[T]:
    """Makes parts of something in the connected cluster, several in a task, and yields them once all are complete.

    What :func:`~dipole_sb3.common.task_processes.finish_tasks` does in processes of this machine.

    :param make: makes one part in the folder.
    :param name: of a part, for the screen.
    :param folder: where the parts' files go.
    """
    size = math.ceil(len(parts) / (_SHARDS_OF_A_SLOT * slots))
    shards = [parts[start : start + size] for start in range(0, len(parts), size or 1)]
    tasks = [
        Task(name(shard[0]) if len(shard) == 1 else f"{name(shard[0])} and {len(shard) - 1} more", make_all, [folder])
        for shard in shards
        for make_all in [functools.partial(_make_shard, make, shard)]
    ]
    perform_all(tasks, engine, slots, "the same command; what is finished is kept")
    yield from parts


def _make_shard(make: Callable[[Any], None], shard: Sequence[Any], tell: Tell) -> None:
    for number, part in enumerate(shard, start=1):
        make(part)
        tell(f"{number} of {len(shard)}", number / len(shard))


class _Attempt(NamedTuple):
    """A task on its way; after a loss, the next attempt has none of it.

    :param number: of the task.
    :param receiver: of its parcels.
    :param held: its mark, and the claims of folders that this process writes for it; closed at its end.
    """

    number: int
    receiver: Receiver
    held: ExitStack


class _Following:
    """Tasks that wait, run and have ended.

    :param opened: keeps what they hold until all have ended.
    """

    def __init__(self, tasks: Sequence[Task], engine: Engine, opened: ExitStack) -> None:
        ray = _ray()
        self._tasks, self._opened = tasks, opened
        self.done: dict[int, Any] = {}
        self.failed: dict[int, str] = {}
        self._waiting = list(range(len(tasks)))
        self._running: dict[Any, str] = {}
        self._attempts: dict[str, _Attempt] = {}
        self._copied: set[str] = set()
        self._refused: dict[str, str] = {}
        self._lost = dict.fromkeys(range(len(tasks)), 0)
        self._stopping = False
        here = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
        self._place = Place(os.getcwd(), here, engine.cpus_per_task)
        self._perform = ray.remote(
            num_cpus=engine.cpus_per_task, num_gpus=engine.gpus_per_task, max_retries=0, max_calls=1
        )(_perform_in_cluster)
        options: dict[str, Any] = {}
        if not ray.util.client.ray.is_connected():
            # It ends with the machine of the command, and not before.
            node = ray.get_runtime_context().get_node_id()
            options["scheduling_strategy"] = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                node, soft=False
            )
        self._mailbox = ray.remote(num_cpus=0)(_mailbox_class()).options(**options).remote()
        self._screen = opened.enter_context(Screen([task.name for task in tasks]))

    def let_go(self) -> None:
        """Drops what belongs to this connection.

        Ray counts references. One that an error's traceback keeps alive into the next connection, where the same
        numbers are given again, would take its mailbox away when it is collected.
        """
        self._mailbox = self._perform = None
        self._running.clear()

    def ended(self) -> bool:
        return not self._running and (self._stopping or not self._waiting)

    def begin(self, slots: int) -> None:
        """Gives the cluster as many tasks as there are free slots."""
        while self._waiting and len(self._running) < slots:
            number = self._waiting.pop(0)
            task = self._tasks[number]
            name, files = secrets.token_hex(8), packed(task.reads)
            attempt = _Attempt(number, Receiver(files), self._opened.enter_context(ExitStack()))
            mark = task.folders[0] / f".mark-{name}"
            mark.parent.mkdir(parents=True, exist_ok=True)
            mark.touch()
            attempt.held.callback(mark.unlink, missing_ok=True)
            self._attempts[name] = attempt
            order = Order(name, task, mark, files)
            self._running[self._perform.remote(order, self._place, self._mailbox)] = name

    def stop(self) -> None:
        """Interrupts every task, once; each saves what it has."""
        ray = _ray()

        if not self._stopping:
            self._stopping = True
            self._screen.say("Stopping: every task saves what it has")
            for reference in self._running:
                ray.cancel(reference)

    def look(self) -> None:
        """Waits for a moment, and takes note of what has happened meanwhile."""
        ray = _ray()

        ended, _ = ray.wait(list(self._running), timeout=0.5) if self._running else ([], [])
        try:
            words, parcels = ray.get(self._mailbox.take.remote())
        except ray.exceptions.RayActorError as error:
            raise ConnectionError(f"the cluster has lost what its tasks said: {' '.join(str(error).split())}") from None
        # What comes from an attempt that has ended comes too late: the next one does not know of it.
        for name, (what, part) in words.items():
            if name in self._attempts:
                self._screen.show(self._attempts[name].number, what, part)
        for name, parcel in parcels:
            if name in self._attempts and name not in self._refused:
                self._unpack(name, Parcel(*parcel))
        for reference in ended:
            name = self._running.pop(reference)
            attempt = self._attempts.pop(name)
            attempt.held.close()
            try:
                self._note(attempt.number, self._outcome(name, reference))
            except ray.exceptions.RayError as error:
                self._begin_again(attempt.number, error)

    def _unpack(self, name: str, parcel: Parcel) -> None:
        attempt = self._attempts[name]
        try:
            if name not in self._copied:
                self._keep_others_away(attempt)
                self._copied.add(name)
        except claim.FolderClaimedError as error:
            self._refused[name] = str(error)
            for reference, running in self._running.items():
                if running == name:
                    _ray().cancel(reference)
            return
        attempt.receiver.unpack(parcel)

    def _keep_others_away(self, attempt: _Attempt) -> None:
        """Claims folders that this process writes, because that of the task cannot."""
        task = self._tasks[attempt.number]
        for folder in task.folders:
            if folder in task.reads:
                attempt.held.enter_context(claim.claimed(folder, "wait for it or stop it"))

    def _outcome(self, name: str, reference: Any) -> Outcome:
        """How a task that has ended has ended.

        :raises ray.exceptions.RayError: its process or its machine was lost.
        """
        ray = _ray()

        try:
            outcome: Outcome = ray.get(reference)
        except ray.exceptions.TaskCancelledError:
            outcome = Outcome("stopped")
        except ray.exceptions.RayTaskError as error:
            outcome = Outcome("failed", message=str(error))
        return Outcome("failed", message=self._refused[name]) if name in self._refused else outcome

    def _note(self, number: int, outcome: Outcome) -> None:
        if outcome.end == "done":
            self.done[number] = outcome.value
            self._screen.end(number, "done")
        elif outcome.end == "stopped" and self._stopping:
            self._screen.end(number, "stopped, and saved")
        elif outcome.end == "stopped":
            self._begin_again(number, "its machine was wanted back")
        else:
            self.failed[number] = outcome.message
            self._screen.end(number, "failed")

    def _begin_again(self, number: int, reason: object) -> None:
        self._lost[number] += 1
        why = " ".join(str(reason).split())[:200]
        if self._stopping:
            self._screen.end(number, "lost; it goes on from its last checkpoint")
        elif self._lost[number] > RETRIES:
            self.failed[number] = f"lost {self._lost[number]} times: {why}"
            self._screen.end(number, "failed")
        else:
            self._screen.say(f"{self._tasks[number].name}: lost ({why}); it goes on, {self._lost[number]} of {RETRIES}")
            self._waiting.insert(0, number)


def _mailbox_class() -> type:
    """An actor beside the command that keeps what tasks say until it is taken.

    Ray sends a class that is made here as it is; one that the actor imported would bring all of PyTorch along.
    """

    class Mailbox:
        def __init__(self) -> None:
            self._words: dict[str, tuple[str, float]] = {}
            self._parcels: list[tuple[str, Any]] = []

        def tell(self, attempt: str, what: str, part: float) -> None:
            """Replaces what the task has said before."""
            self._words[attempt] = (what, part)

        def send(self, attempt: str, parcel: Any) -> None:
            """Keeps a parcel."""
            self._parcels.append((attempt, parcel))

        def take(self) -> tuple[dict[str, tuple[str, float]], list[tuple[str, Any]]]:
            """Everything since the last time."""
            taken = self._words, self._parcels
            self._words, self._parcels = {}, []
            return taken

    return Mailbox


def _perform_in_cluster(order: Order, place: Place, mailbox: Any) -> Outcome:
    ray = _ray()

    def send(attempt: str, parcel: Any) -> None:
        ray.get(mailbox.send.remote(attempt, tuple(parcel)))

    return perform(order, place, Office(mailbox.tell.remote, send))
