"""Runs the control loop in its own thread, timed by the steady clock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import monotonic

_LONGEST_END_S = 1.0


class Pacer:
    """Calls a control period at fixed intervals until it is ended.

    An rclpy timer waits for the executor, which builds a wait set in Python for every arriving message. This thread
    waits only for its time. Missed periods are skipped, as with a timer.

    :param period: must not raise.
    :param period_s: time between two calls; positive.
    """

    def __init__(self, period: Callable[[], None], period_s: float) -> None:
        self._period = period
        self._period_s = period_s
        self._ended = threading.Event()
        # Daemon, so that a period that hangs does not keep the process alive.
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)
        self._thread.start()

    def end(self) -> bool:
        """Starts no further period. Waits a while for the current one, unless it is called from that period.

        :return: whether the current period has ended; False if it hangs.
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
