"""Watches the control loop from its own thread, whatever the executor is doing."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Watchdog:
    """Calls a check at a fixed interval until it is ended.

    :param check: must not block; its exceptions go to ``on_error`` and do not end the watch.
    """

    def __init__(self, check: Callable[[], None], interval_s: float, on_error: Callable[[Exception], None]) -> None:
        self._check = check
        self._interval_s = interval_s
        self._on_error = on_error
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """After this returns, the check is not called again; except if this is called from the check itself."""
        self._ended.set()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(self._interval_s):
            try:
                self._check()
            except Exception as error:
                self._on_error(error)
