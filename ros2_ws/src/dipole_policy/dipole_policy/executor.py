"""An executor that runs callbacks in threads and submits each callback once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from rclpy.executors import Executor, ExternalShutdownException, ShutdownException, TimeoutException

_LONGEST_START_S = 1.0


class ThreadsExecutor(Executor):  # type: ignore[misc]  # rclpy is not typed
    """A multi-threaded executor without the contention of rclpy's own.

    rclpy's MultiThreadedExecutor submits a callback to its pool repeatedly until a thread of the pool has started it.
    The submitting loop holds the interpreter's lock for milliseconds at a time, and the thread is waiting for this
    lock. As a result, sometimes no callback runs for seconds, with a core at full load
    (https://github.com/ros2/rclpy/issues/1223). This executor waits until the callback has started.

    :param threads: as many as there are callback groups, so that no callback waits for one of another group.
    :param on_error: called with the exceptions that callbacks raise.
    """

    def __init__(self, threads: int, on_error: Callable[[Exception], None], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="callback")
        self._tell_error = on_error
        self._under_way: set[Any] = set()

    def spin_once(self, timeout_sec: float | None = None) -> None:
        """Submits one callback, or waits for one.

        :param timeout_sec: longest time to wait; None: no limit.
        """
        try:
            handler, _, _ = self.wait_for_ready_callbacks(timeout_sec=timeout_sec)
        except (ExternalShutdownException, ShutdownException, TimeoutException):
            return
        if handler in self._under_way:
            return
        self._under_way.add(handler)
        begun = threading.Event()
        self._threads.submit(self._call, handler, begun)
        begun.wait(_LONGEST_START_S)

    def _call(self, handler: Any, begun: threading.Event) -> None:
        begun.set()
        try:
            handler()
        finally:
            self._under_way.discard(handler)
        if handler.done() and (error := handler.exception()) is not None:
            self._tell_error(error)

    def abandon(self) -> None:
        """Lets each thread end after its current callback; does not wait for them, and no further callback starts."""
        self._threads.shutdown(wait=False)
