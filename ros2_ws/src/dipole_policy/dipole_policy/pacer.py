"""A thread of its own for the control loop, at the pace of the steady clock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

_LONGEST_END_S = 1.0


class Pacer:
    """Calls a control period at fixed intervals until it is ended.

    A timer of rclpy waits for the executor, which builds a wait set in Python for whatever arrives. This thread waits
    for nothing but its time. Periods that are missed are left out, as a timer does.

    :param period: must not raise.
    :param period_s: between two calls; positive.
    """

    def __init__(self, period: Callable[[], None], period_s: float) -> None:
        self._period = period
        self._period_s = period_s
        self._ended = threading.Event()
        # A period that hangs must not keep the process.
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def end(self) -> bool:
        """No further period begins. Waits a while for the one under way, unless that is where this is called.

        :return: whether it is over; one that hangs is not.
        """
        self._ended.set()
        if threading.current_thread() is self._thread:
            return True
        self._thread.join(_LONGEST_END_S)
        return not self._thread.is_alive()

    def _run(self) -> None:
        due = monotonic()
        while True:
            due = max(due + self._period_s, monotonic())
            if self._ended.wait(due - monotonic()):
                return
            self._period()
