"""Plans scored in several processes."""

from __future__ import annotations

import contextlib
import itertools
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from multiprocessing.connection import Connection
from types import TracebackType

import numpy as np

from dipole_sb3.common.child_processes import (
    Worker,
    available_cores,
    live_and_die_with_parent,
    quiet_children,
    without_script,
)
from dipole_sb3.driving.scene import Floats, Scores, Surroundings
from dipole_sb3.driving.score.driving import checked
from dipole_sb3.driving.score.pdms import score_plans


@dataclass
class _Known:
    """A scene that processes were sent: its name there, and which processes have it."""

    name: int
    holders: set[int] = field(default_factory=set)


class ScoringPool:
    """Several processes that score plans; a context manager, which ends them.

    A process keeps the scenes that it was sent as long as their surroundings live here, and gets them again.

    :param processes: None: one for each core.
    """

    def __init__(self, processes: int | None = None) -> None:
        count = available_cores() if processes is None else processes
        if count < 1:
            raise ValueError(f"processes must be at least 1, got {count}")
        with quiet_children(), without_script():
            self._workers = [Worker.start(_serve) for _ in range(count)]
        self._names = itertools.count()
        self._known: weakref.WeakKeyDictionary[Surroundings, _Known] = weakref.WeakKeyDictionary()
        self._gone: list[list[int]] = [[] for _ in self._workers]

    def score_plans(self, surroundings: Sequence[Surroundings], plans: Floats) -> Scores:
        """As the function :func:`score_plans`, to the last bit.

        :raises ValueError: as there.
        :raises ChildProcessError: a process died; the pool is closed then.
        """
        plans = checked(plans, surroundings)
        shares = self._shares(surroundings)
        try:
            for rank, share in enumerate(shares):
                self._send(rank, [surroundings[index] for index in share], plans[share])
            answers = [worker.connection.recv() for worker in self._workers]
        except (EOFError, OSError) as error:
            self.close()
            raise ChildProcessError("a process that scores plans died (out of memory?); this pool is closed") from error
        except BaseException:
            # An answer that nobody waits for any more would be taken for the next call's.
            self.close()
            raise
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        together = [np.empty(plans.shape[:2]) for _ in fields(Scores)]
        for share, answer in zip(shares, answers, strict=True):
            for whole, score in zip(together, fields(Scores), strict=True):
                whole[share] = getattr(answer, score.name)
        return Scores(*together)

    def close(self) -> None:
        """Ends the processes."""
        for worker in self._workers:
            # They have nothing to lose, and do not hear SIGTERM.
            worker.process.kill()
            worker.process.join()
            worker.connection.close()
        self._workers = []

    def __enter__(self) -> ScoringPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _shares(self, surroundings: Sequence[Surroundings]) -> list[list[int]]:
        """Which scenes each process scores: equally many, where possible those it has already."""
        if not self._workers:
            raise ValueError("this pool is closed; open another ScoringPool")
        shares: list[list[int]] = [[] for _ in self._workers]
        quota = -(-len(surroundings) // len(shares))
        for index, one in enumerate(surroundings):
            holders = self._known[one].holders if one in self._known else set()
            ranks = [rank for rank in sorted(holders) if len(shares[rank]) < quota] or range(len(shares))
            min((shares[rank] for rank in ranks), key=len).append(index)
        return shares

    def _send(self, rank: int, surroundings: list[Surroundings], plans: Floats) -> None:
        fresh = {}
        for one in surroundings:
            if one not in self._known:
                self._known[one] = _Known(next(self._names))
            known = self._known[one]
            if rank not in known.holders:
                known.holders.add(rank)
                fresh[known.name] = one
                weakref.finalize(one, self._gone[rank].append, known.name).atexit = False
        gone = [self._gone[rank].pop() for _ in range(len(self._gone[rank]))]
        # A process that has died is told of when its answer does not come.
        with contextlib.suppress(OSError):
            self._workers[rank].connection.send((gone, fresh, [self._known[one].name for one in surroundings], plans))


def _serve(connection: Connection) -> None:
    """A process's work: scores what it is sent until the other side ends it."""
    live_and_die_with_parent()
    scenes: dict[int, Surroundings] = {}
    while True:
        try:
            gone, fresh, names, plans = connection.recv()
        except EOFError:
            return
        for name in gone:
            del scenes[name]
        scenes |= fresh
        answer: Scores | Exception
        try:
            answer = score_plans([scenes[name] for name in names], plans)
        except Exception as error:
            answer = error
        connection.send(answer)
