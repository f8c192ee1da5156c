"""Checks whether the node's clock can be trusted."""

from __future__ import annotations

import threading

from dipole_policy.errors import Cause, Kind


class ClockGuard:
    """Compares the node's clock with a steady clock, period by period. Safe to use from any thread.

    :param simulated: whether the node's clock is a simulation's: it may run at any speed, but not backwards.
    :param largest_jump_s: how far a real-time clock may move against the steady clock between two periods; positive.
    """

    def __init__(self, simulated: bool, largest_jump_s: float) -> None:
        self._simulated = simulated
        self._largest_jump_s = largest_jump_s
        self._lock = threading.Lock()
        self._last: tuple[int, float] | None = None

    def check(self, now_ns: int, steady_s: float) -> Cause | None:
        """What is wrong with the clock; None if nothing is.

        :param now_ns: time of the node's clock.
        :param steady_s: time of a clock that never jumps.
        """
        with self._lock:
            last, self._last = self._last, (now_ns, steady_s)
        if (silent := self.silent(now_ns)) is not None:
            return silent
        if last is None or last[0] == 0:
            return None
        advance = (now_ns - last[0]) * 1e-9
        if advance < 0.0:
            return Cause(Kind.CLOCK, f"the clock jumped back by {-advance:.3f} s")
        drift = advance - (steady_s - last[1])
        if not self._simulated and abs(drift) > self._largest_jump_s:
            return Cause(Kind.CLOCK, f"the clock jumped by {drift:.3f} s, expected at most {self._largest_jump_s} s")
        return None

    def silent(self, now_ns: int) -> Cause | None:
        """That a simulation's clock has never spoken; None if it has, or if there is no simulation."""
        if not self._simulated or now_ns != 0:
            return None
        return Cause(Kind.CLOCK, "use_sim_time is true and nothing has arrived on /clock")

    def standing_at(self, now_ns: int) -> str:
        """For a message about a pause: where a simulation's clock stands; empty without a simulation."""
        return f"; /clock stands at {now_ns * 1e-9:.3f} s" if self._simulated else ""

    def forget(self) -> None:
        """The next time is not compared with earlier ones."""
        with self._lock:
            self._last = None
