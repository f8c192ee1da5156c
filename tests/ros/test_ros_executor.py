"""Callbacks in threads: each handed over once, none waiting for another group's, their exceptions told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")

from dipole_policy.executor import ThreadsExecutor  # noqa: E402
from dipole_policy.pacer import Pacer  # noqa: E402
from graph import driving, namespace, wait  # noqa: E402
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup  # noqa: E402
from rclpy.node import Node  # noqa: E402

pytestmark = pytest.mark.usefixtures("ros")


class Counting(ThreadsExecutor):
    """Counts how often it hands something over."""

    def __init__(self, *arguments: Any) -> None:
        self.errors: list[Exception] = []
        super().__init__(4, self.errors.append)
        self.handed = 0

    def _call(self, handler: Any, begun: threading.Event) -> None:
        self.handed += 1
        super()._call(handler, begun)


@contextmanager
def timers(*callbacks: Callable[[], None]) -> Iterator[Counting]:
    """Every 10 ms, each in a group of its own."""
    node = Node("timers", namespace=namespace(), start_parameter_services=False)
    for callback in callbacks:
        node.create_timer(0.01, callback, callback_group=MutuallyExclusiveCallbackGroup())
    executor = Counting()
    executor.add_node(node)
    over = threading.Event()

    def spin() -> None:
        while not over.is_set():
            executor.spin_once(timeout_sec=0.1)

    thread = threading.Thread(target=spin)
    thread.start()
    try:
        yield executor
    finally:
        over.set()
        thread.join()
        executor.shutdown(timeout_sec=5.0)
        executor.abandon()
        node.destroy_node()


def test_a_callback_is_handed_over_once():
    begun: list[float] = []

    def keep_the_interpreter() -> None:
        begun.append(time.monotonic())
        sum(range(100_000))

    with timers(keep_the_interpreter, keep_the_interpreter) as executor:
        wait(lambda: len(begun) >= 100, "a hundred callbacks")
    assert executor.handed <= len(begun) + 2, "one in each of two threads may be under way"


def test_the_executor_of_a_driving_node_waits(bundle: Path, contract: Path, monkeypatch: pytest.MonkeyPatch):
    turns: list[int] = []
    spin_once = ThreadsExecutor.spin_once

    def counted(self: ThreadsExecutor, timeout_sec: float | None = None) -> None:
        turns.append(1)
        spin_once(self, timeout_sec)

    monkeypatch.setattr(ThreadsExecutor, "spin_once", counted)
    with driving(bundle, contract) as (_, found):
        turns.clear()
        count = len(found.commands)
        wait(lambda: len(found.commands) >= count + 60, "sixty commands")
        # Asking again and again would keep the interpreter from the very threads that are to begin.
        assert len(turns) < 20 * (len(found.commands) - count)


def test_a_group_does_not_wait_for_another():
    over, called = threading.Event(), []
    with timers(over.wait, lambda: called.append(1)):
        wait(lambda: len(called) >= 20, "callbacks beside one that hangs")
        over.set()


def test_what_a_callback_raises_is_told_and_the_next_is_called():
    called: list[int] = []

    def fail() -> None:
        called.append(1)
        raise RuntimeError("broken")

    with timers(fail) as executor:
        wait(lambda: len(called) >= 3, "three calls")
        wait(lambda: len(executor.errors) >= 3, "three errors")
    assert {str(error) for error in executor.errors} == {"broken"}


def test_a_pacer_keeps_its_pace_and_leaves_out_what_it_missed():
    times: list[float] = []

    def period() -> None:
        times.append(time.monotonic())
        if len(times) == 5:
            time.sleep(0.5)

    began = time.monotonic()
    pacer = Pacer(period, 0.02)
    wait(lambda: len(times) >= 20, "twenty periods")
    assert pacer.end()
    count = len(times)
    # Were the missed ones made up for, the twenty would be there after half a second.
    assert times[19] - began >= 0.5 + 15 * 0.02
    time.sleep(0.1)
    assert len(times) == count, "none after the end"


def test_a_pacer_whose_period_hangs_says_so():
    over = threading.Event()
    pacer = Pacer(lambda: over.wait() and None, 0.01)
    time.sleep(0.05)
    assert not pacer.end()
    over.set()
    assert pacer.end()
