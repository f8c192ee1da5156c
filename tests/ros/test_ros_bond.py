"""The bond with a lifecycle manager: bondpy on both sides, as Nav2's manager uses its C++ twin."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")
bondpy = pytest.importorskip("bondpy.bondpy", reason="bondpy is not installed: see ros-<distribution>-bondpy")

from dipole_policy.executor import ThreadsExecutor  # noqa: E402
from graph import STOP, Robot, namespace, pair, robot, wait  # noqa: E402
from rclpy.duration import Duration  # noqa: E402
from rclpy.node import Node  # noqa: E402

pytestmark = pytest.mark.usefixtures("ros")
TIMEOUT_S = 4.0


class Manager:
    """The other side, as Nav2's lifecycle manager makes it once a node is active."""

    def __init__(self, of: Robot) -> None:
        self.broken: list[float] = []
        self.node = Node("lifecycle_manager", namespace=of.namespace)
        self._executor = ThreadsExecutor(2, lambda error: None)
        self._executor.add_node(self.node)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()
        self.bond = bondpy.Bond(self.node, "bond", of.name, on_broken=lambda: self.broken.append(time.monotonic()))
        self.bond.set_heartbeat_timeout(TIMEOUT_S)
        self.bond.set_heartbeat_period(0.25)
        self.bond.start()

    def _spin(self) -> None:
        while not self._ended.is_set():
            # bondpy as it is: when it ends its topics, the executor that has not been told fails for a moment.
            with suppress(Exception):
                self._executor.spin_once(timeout_sec=0.1)

    def is_formed(self) -> bool:
        return bool(self.bond.wait_until_formed(Duration(seconds=TIMEOUT_S / 2)))

    def die(self) -> None:
        """Without a farewell, as by SIGKILL."""
        self._ended.set()
        self._thread.join()
        with self.bond.lock:
            self.bond.is_shutdown = True
            self.bond.condition.notify_all()

    def close(self) -> None:
        self.bond.shutdown()
        self._ended.set()
        self._thread.join()
        self._executor.shutdown(timeout_sec=5.0)
        self._executor.abandon()
        self.node.destroy_node()


@contextmanager
def managing(of: Robot) -> Iterator[Manager]:
    found = Manager(of)
    try:
        yield found
    finally:
        found.close()


@contextmanager
def active(bundle: Path, contract: Path) -> Iterator[tuple[Any, Robot]]:
    with pair(bundle, contract) as (node, found):
        assert found.change("configure")
        assert found.change("activate")
        found.drives()
        yield node, found


def test_formed_when_active_and_broken_when_not(bundle: Path, patient_contract: Path):
    with active(bundle, patient_contract) as (_, found):
        for again in (False, True):
            if again:
                assert found.change("activate")
            with managing(found) as manager:
                assert manager.is_formed()
                time.sleep(1.0)
                assert not manager.broken
                assert found.change("deactivate")
                wait(lambda: manager.broken, "a broken bond", timeout_s=1.5)


def test_the_managers_farewell_and_its_silence_leave_the_robot_driving(bundle: Path, patient_contract: Path):
    """A manager that died must not make the node die for the one that follows it, nor stop the robot."""
    with active(bundle, patient_contract) as (node, found):
        with managing(found) as manager:
            assert manager.is_formed()
            manager.die()
        count = len(found.commands)
        time.sleep(TIMEOUT_S + 1.5)
        assert not node._bond._bond.is_broken()
        assert STOP not in found.commands[count:]
        assert len(found.commands) > count + 20
        assert found.change("deactivate")
        assert found.change("activate")
        with managing(found) as manager:
            assert manager.is_formed()
        count = len(found.commands)
        found.drives()
        assert STOP not in found.commands[count:]


def test_nobody_answers(bundle: Path, patient_contract: Path):
    with active(bundle, patient_contract) as (node, found):
        count = len(found.commands)
        wait(lambda: node._bond._bond.is_broken(), "the end of waiting for the other side", timeout_s=15.0)
        found.drives()
        assert STOP not in found.commands[count:]
        assert node.state_label == "active"


def test_an_error_in_its_callback_does_not_stop_the_robot(bundle: Path, patient_contract: Path):
    seen: list[int] = []

    def fail() -> None:
        seen.append(1)
        raise RuntimeError("no such transition")

    with active(bundle, patient_contract) as (node, found):
        node._bond._bond.sm.SisterAlive = fail
        with managing(found):
            wait(lambda: len(seen) > 3, "heartbeats of the other side")
            count = len(found.commands)
            time.sleep(1.0)
            assert len(found.commands) > count + 5
            assert STOP not in found.commands[count:]


def test_it_listens_no_longer_than_it_must(bundle: Path, patient_contract: Path):
    """Ten bonds of Nav2 send two hundred messages a second on the one topic."""

    def listens(node: Any) -> bool:
        return any(subscription.topic_name.endswith("/bond") for subscription in node.subscriptions)

    with active(bundle, patient_contract) as (node, found):
        assert listens(node)
        with managing(found) as manager:
            assert manager.is_formed()
            wait(lambda: not listens(node), "an end of listening")
            time.sleep(TIMEOUT_S + 1.0)
            assert not manager.broken
            # A manager that begins anew hears it at once.
        with managing(found) as manager:
            assert manager.is_formed()


def test_nothing_is_left_behind(bundle: Path, patient_contract: Path):
    with pair(bundle, patient_contract) as (node, found):
        assert found.change("configure")
        before = len(list(node.publishers)), len(list(node.subscriptions))
        for _ in range(10):
            assert found.change("activate")
            assert found.change("deactivate")
        assert (len(list(node.publishers)), len(list(node.subscriptions))) == before


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_end_of_the_process_is_noticed(bundle: Path, contract: Path, number: signal.Signals):
    of = namespace()
    arguments = [sys.executable, "-m", "dipole_policy.main", "--ros-args", "-r", f"__ns:={of}"]
    arguments += ["-p", "autostart:=true", "-p", f"bundle:={bundle}", "-p", f"contract:={contract}"]
    with robot(of) as found:
        process = subprocess.Popen(
            arguments, env=dict(os.environ), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            found.drives()
            with managing(found) as manager:
                assert manager.is_formed()
                time.sleep(1.0)
                assert not manager.broken
                begin = time.monotonic()
                process.send_signal(number)
                wait(lambda: manager.broken, "a broken bond")
                took = manager.broken[0] - begin
                print(f"{number.name}: noticed after {took:.2f} s")
                assert took < TIMEOUT_S + 1.0
                assert (took < 3.0) == (number == signal.SIGINT)
        finally:
            process.kill()
            output, _ = process.communicate()
        assert "Traceback" not in output
