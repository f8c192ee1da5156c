"""Counts missed deadlines, and says when there are too many."""

from __future__ import annotations

import threading
from collections import deque

from dipole_policy.tolerance import Tolerance


class Deadlines:
    """One late period among many is no reason to stop a robot; many are, and so is a silence.

    Safe to use from any thread. Times are in seconds of a steady clock.

    :param deadline_s: longest time from the start of a period to its command; positive.
    :param tolerance: how many missed ones are tolerated.
    :param period_s: time between two periods; positive.
    """

    def __init__(self, deadline_s: float, tolerance: Tolerance, period_s: float) -> None:
        self.deadline_s, self.tolerance = deadline_s, tolerance
        longest = max(deadline_s, period_s)
        self._window_s = tolerance.of * longest
        # Tolerated misses in a row take twice as long at most: the next period begins when the late one ends.
        self._silence_s = 2.0 * (tolerance.allowed + 1) * longest
        self._missed: deque[float] = deque()
        self._lock = threading.Lock()
        self._started: float | None = None
        self._counted = 0
        self._kept_at: float | None = None
        self.total = 0
        """Of missed deadlines, tolerated ones too, since configuring."""

    def forget(self) -> None:
        """Earlier periods no longer count."""
        with self._lock:
            self._missed.clear()
            self._kept_at = None

    def kept(self, now: float) -> None:
        """A period was in time."""
        with self._lock:
            self._kept_at = now

    def check(self, started: float, now: float) -> str | None:
        """Counts what a period has missed by now: one for every deadline that would have passed since its start.

        May be called repeatedly for a period, also while it is under way.

        :param started: when the period began.
        :return: why this is too much, if it is and was not said of this many misses before; else None.
        """
        with self._lock:
            if started != self._started:
                self._started, self._counted = started, 0
            if self._kept_at is None:
                self._kept_at = started
            new = self._since(started, now) - self._counted
            if new <= 0:
                return None
            self._counted += new
            self.total += new
            self._missed.extend([now] * min(new, self.tolerance.of))
            while self._missed and now - self._missed[0] > self._window_s:
                self._missed.popleft()
            return self._too_much(now - self._kept_at)

    def _too_much(self, silence_s: float) -> str | None:
        allowed = self.tolerance.allowed
        if len(self._missed) > allowed:
            return f"{len(self._missed)} misses in {self.tolerance.of} periods, {allowed} are tolerated"
        # A long deadline may fill the window more slowly than misses leave it.
        if silence_s > self._silence_s:
            return f"no decision in time for {silence_s:.3f} s, {self._silence_s:g} s are tolerated"
        return None

    def is_late(self, started: float, now: float) -> bool:
        """Whether a period's command would come too late."""
        return now - started > self.deadline_s

    def _since(self, started: float, now: float) -> int:
        if not self.is_late(started, now):
            return 0
        return max(1, int((now - started) / self.deadline_s))
