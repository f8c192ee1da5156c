"""A thread of its own that looks after the control loop, whatever the executor is busy with."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Watchdog:
    """Calls a check at a fixed interval until it is ended.

    :param check: must not block; what it raises goes to ``on_error`` and does not end the watch.
    """

    def __init__(self, check: Callable[[], None], interval_s: float, on_error: Callable[[Exception], None]) -> None:
        self._check = check
        self._interval_s = interval_s
        self._on_error = on_error
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """The check is not called any more once this returns, unless it is called from the check itself."""
        self._ended.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._interval_s):
            try:
                self._check()
            except Exception as error:
                self._on_error(error)
