"""The process: signals, executor, and a stop action that is sent however the process ends."""

from __future__ import annotations

import argparse
import os
import select
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

THREADS = 9
"""For lifecycle and clock, parameters, reload, stop, resume, ω, diagnostics, a bond, a simulation's control loop."""
_LARGEST_RUN_OF_FAILURES = 100
_LOOK_AGAIN_S = 0.2
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the node until a signal ends it, or the end of the process that ``--end-with`` names.

    :param arguments: program name, own arguments, ROS arguments; None: those of the process.
    :return: the exit status: 0 after a signal or the other process's end, 1 if the executor gave up.
    """
    given = list(sys.argv if arguments is None else arguments)
    other = _end_with(given)
    if other is not None and other.has_ended():
        # Nothing is to be driven, not even once.
        print(f"process {other.number} has ended already, and this one with it", file=sys.stderr)
        return 0
    ending = Ending(other)
    # rclpy's own handlers shut the context down first; after that, no stop action can be published.
    ending.listen()
    problem = _initialize(given)
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
    # Ctrl-C reaches the node twice, from the terminal and from ros2 launch. While the interpreter ends, it puts the
    # default handlers back, and the second signal would turn a clean end into a death by signal.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    return ending.status


def _end_with(arguments: Sequence[str]) -> OtherProcess | None:
    """The process that ``--end-with`` names; None if it names none. Other arguments are left to ROS."""
    own = list(arguments)[1:]
    own = own[: own.index("--ros-args")] if "--ros-args" in own else own
    parser = argparse.ArgumentParser("policy_node", allow_abbrev=False)
    parser.add_argument("--end-with", type=int, metavar="PID", help="stop and end when this process has ended")
    number: int | None = parser.parse_known_args(own)[0].end_with
    if number is not None and number < 1:
        parser.error(f"--end-with is {number}, expected the id of a process, 1 or more")
    return None if number is None else OtherProcess(number)


class Ending:
    """Lets the main thread wait for the end of the process: for a byte in a pipe, or for another process's end.

    When several signals arrive in a row, the operating system may deliver some of them to threads other than the main
    one. The main thread then stays asleep, and its Python handlers are not called. Also, threading's locks can hang
    when one handler interrupts another. The byte is written by the interpreter's own C handler, which works from any
    thread.

    :param other: when it has ended, this process is to end as well.
    """

    def __init__(self, other: OtherProcess | None = None) -> None:
        self.why = "the process ends"
        self.status = 0
        self._has_come = False
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._other = other

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
        if self._other is not None and not self._other.outlasts(self._reader):
            self.why = f"process {self._other.number} has ended, and this one with it"
        else:
            (number,) = os.read(self._reader, 1)
            self.why = signal.Signals(number).name if number else self.why
        self._has_come = True


class OtherProcess:
    """A process with which this one is to end, such as ``ros2 launch``.

    :param number: its id.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self._descriptor: int | None = None
        # It becomes readable when the process ends. There is none outside of Linux, in containers that forbid the call,
        # and for a process that has ended already: then the process is looked for again and again.
        with suppress(AttributeError, OSError):
            self._descriptor = os.pidfd_open(number)

    def has_ended(self) -> bool:
        """Whether it has ended by now."""
        if self._descriptor is not None:
            return bool(select.select([self._descriptor], [], [], 0.0)[0])
        return not self._is_there()

    def outlasts(self, reader: int) -> bool:
        """Waits until a pipe can be read or the process has ended.

        :param reader: the pipe's file descriptor.
        :return: whether the pipe can be read.
        """
        watched = [reader] if self._descriptor is None else [reader, self._descriptor]
        while True:
            ready, _, _ = select.select(watched, [], [], _LOOK_AGAIN_S if self._descriptor is None else None)
            if reader in ready:
                return True
            if ready or not self._is_there():
                return False

    def _is_there(self) -> bool:
        try:
            os.kill(self.number, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            # It belongs to another user.
            return True
        return True


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
