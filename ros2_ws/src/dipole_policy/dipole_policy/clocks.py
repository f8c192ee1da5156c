"""Whether the node's clock can be believed."""

from __future__ import annotations

import threading

from dipole_policy.errors import Cause, Kind


class ClockGuard:
    """Compares the node's clock with a steady one, period by period. May be used from any thread.

    :param simulated: whether the node's clock is a simulation's: it runs at any pace, but not back.
    :param largest_jump_s: how far a clock of the wall may be from the steady one since the last period; positive.
    """

    def __init__(self, simulated: bool, largest_jump_s: float) -> None:
        self._simulated = simulated
        self._largest_jump_s = largest_jump_s
        self._lock = threading.Lock()
        self._last: tuple[int, float] | None = None

    def check(self, now_ns: int, steady_s: float) -> Cause | None:
        """What is wrong with the clock, if anything is.

        :param now_ns: the node's clock.
        :param steady_s: a clock that never jumps.
        """
        with self._lock:
            last, self._last = self._last, (now_ns, steady_s)
        if self._simulated and now_ns == 0:
            return Cause(Kind.CLOCK, "use_sim_time is true and nothing has arrived on /clock")
        if last is None or last[0] == 0:
            return None
        advance = (now_ns - last[0]) * 1e-9
        if advance < 0.0:
            return Cause(Kind.CLOCK, f"the clock jumped back by {-advance:.3f} s")
        drift = advance - (steady_s - last[1])
        if not self._simulated and abs(drift) > self._largest_jump_s:
            return Cause(Kind.CLOCK, f"the clock jumped by {drift:.3f} s, expected at most {self._largest_jump_s} s")
        return None

    def forget(self) -> None:
        """What follows is not compared with what was."""
        with self._lock:
            self._last = None
