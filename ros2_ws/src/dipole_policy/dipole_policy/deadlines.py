"""Counts missed deadlines, and says when there are too many."""

from __future__ import annotations

import threading
from collections import deque

from dipole_policy.contract import Tolerance


class Deadlines:
    """One late period among many is no reason to stop a robot; many are. Safe to use from any thread.

    Times are in seconds of a steady clock.

    :param deadline_s: longest time from the start of a period to its command; positive.
    :param tolerance: how many missed ones are tolerated.
    :param period_s: time between two periods; positive.
    """

    def __init__(self, deadline_s: float, tolerance: Tolerance, period_s: float) -> None:
        self.deadline_s, self.tolerance = deadline_s, tolerance
        self._window_s = tolerance.of * period_s
        self._missed: deque[float] = deque()
        self._lock = threading.Lock()
        self._started: float | None = None
        self._counted = 0
        self.total = 0
        """Of missed deadlines, tolerated ones too, since configuring."""

    def forget(self) -> None:
        """Earlier misses no longer count."""
        with self._lock:
            self._missed.clear()

    def check(self, started: float, now: float) -> int | None:
        """Counts what a period has missed by now: one for every deadline that would have passed since its start.

        May be called repeatedly for a period, also while it is under way.

        :param started: when the period began.
        :return: how many were missed lately, if that is more than is tolerated and was not said of this period before;
            else None.
        """
        with self._lock:
            if started != self._started:
                self._started, self._counted = started, 0
            new = self._since(started, now) - self._counted
            if new <= 0:
                return None
            self._counted += new
            self.total += new
            self._missed.extend([now] * min(new, self.tolerance.of))
            while self._missed and now - self._missed[0] > self._window_s:
                self._missed.popleft()
            return len(self._missed) if len(self._missed) > self.tolerance.allowed else None

    def is_late(self, started: float, now: float) -> bool:
        """Whether a period's command would come too late."""
        return now - started > self.deadline_s

    def _since(self, started: float, now: float) -> int:
        if not self.is_late(started, now):
            return 0
        return max(1, int((now - started) / self.deadline_s))
