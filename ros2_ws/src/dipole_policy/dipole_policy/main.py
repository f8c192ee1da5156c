"""The process: signals, executor, and a stop action that is sent however the process ends."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from time import monotonic, sleep
from typing import Any

import rclpy
from rclpy.signals import SignalHandlerOptions

from dipole_policy.errors import one_line
from dipole_policy.executor import ThreadsExecutor
from dipole_policy.node import PolicyNode

THREADS = 8
"""For inputs, lifecycle and clock, parameters, reload, resume, ω, diagnostics, a simulation's control loop."""
_LARGEST_RUN_OF_FAILURES = 100
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the node until a signal ends it.

    :param arguments: ROS arguments; None: those of the process.
    :return: the exit status: 0 after a signal, 1 if the executor gave up.
    """
    ending = Ending()
    # rclpy's own handlers shut the context down first; after that, no stop action can be published.
    ending.listen()
    problem = _initialize(list(sys.argv if arguments is None else arguments))
    node = PolicyNode(problem=problem)
    executor = ThreadsExecutor(THREADS, node.executor_failed)
    executor.add_node(node)
    # Not a daemon, so that the pool's threads, which this thread starts, are not daemons either: see _end.
    thread = threading.Thread(target=_spin, args=(executor, node, ending), name="executor", daemon=False)
    thread.start()
    try:
        ending.wait()
    finally:
        is_over = node.halt(ending.why)
    if not _end(executor, thread) or not is_over:
        # An inference that hangs would keep the process alive forever, and the robot waiting for its commands.
        node.get_logger().fatal("a callback does not end, the process ends without it")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(1)
    _shut_down(node)
    return ending.status


class Ending:
    """Lets the main thread wait for the end of the process: for a byte in a pipe.

    When several signals arrive in a row, the operating system may deliver some of them to threads other than the main
    one. The main thread then stays asleep, and its Python handlers are not called. Also, threading's locks can hang
    when one handler interrupts another. The byte is written by the interpreter's own C handler, which works from any
    thread.
    """

    def __init__(self) -> None:
        self.why = "the process ends"
        self.status = 0
        self._has_come = False
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)

    def listen(self) -> None:
        """From now on, signals end the process this way. Call it from the main thread."""
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, _nothing)

    def give_up(self, why: str) -> None:
        """The executor cannot continue."""
        self.why, self.status = why, 1
        # A full pipe already holds enough bytes.
        with suppress(BlockingIOError):
            os.write(self._writer, b"\0")

    def is_set(self) -> bool:
        """Whether the process is to end."""
        return self._has_come

    def wait(self) -> None:
        """Waits until the process is to end. Call it from the main thread."""
        (number,) = os.read(self._reader, 1)
        self._has_come = True
        if number:
            self.why = signal.Signals(number).name


def _nothing(number: int, frame: Any) -> None:
    """Does nothing: the byte is enough. But without a handler, the signal would end the process at once."""


def _initialize(arguments: list[str]) -> str | None:
    """Starts ROS, without the parameter files if they cannot be read, so that the node can report this.

    :return: what was wrong with the arguments; None if nothing was.
    """
    try:
        rclpy.init(args=arguments, signal_handler_options=SignalHandlerOptions.NO)
    except Exception as error:
        without = _without_parameter_files(arguments)
        if without == arguments:
            raise
        rclpy.try_shutdown()
        rclpy.init(args=without, signal_handler_options=SignalHandlerOptions.NO)
        return f"the parameter file cannot be read: {one_line(error)}"
    return None


def _without_parameter_files(arguments: Sequence[str]) -> list[str]:
    kept: list[str] = []
    left = iter(arguments)
    for argument in left:
        if argument == "--params-file":
            next(left, None)
        elif not argument.startswith("--params-file="):
            kept.append(argument)
    return kept


def _spin(executor: ThreadsExecutor, node: PolicyNode, ending: Ending) -> None:
    failures = 0
    while not ending.is_set() and failures < _LARGEST_RUN_OF_FAILURES:
        if not executor.context.ok():
            ending.give_up("the ROS context was shut down")
            return
        try:
            executor.spin_once(timeout_sec=1.0)
            failures = 0
        except Exception as error:
            failures += 1
            node.executor_failed(error)
            if failures == _LARGEST_RUN_OF_FAILURES:
                ending.give_up(f"the executor fails again and again: {one_line(error)}")


def _end(executor: ThreadsExecutor, thread: threading.Thread) -> bool:
    """Ends the executor's threads.

    :return: whether they ended within a few seconds.
    """
    executor.shutdown(timeout_sec=2.0)
    thread.join(timeout=2.0)
    executor.abandon()
    end = monotonic() + 2.0
    while monotonic() < end:
        if not [other for other in threading.enumerate() if other.is_alive() and not _may_stay(other)]:
            return not thread.is_alive()
        sleep(0.01)
    return False


def _may_stay(thread: threading.Thread) -> bool:
    return thread.daemon or thread is threading.main_thread()


def _shut_down(node: PolicyNode) -> None:
    try:
        if node.state_label in ("unconfigured", "inactive", "active"):
            node.trigger_shutdown()
        node.destroy_node()
    except Exception as error:
        node.get_logger().error(f"while ending: {one_line(error)}")
    finally:
        rclpy.try_shutdown()


if __name__ == "__main__":
    sys.exit(main())
