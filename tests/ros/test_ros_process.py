"""The node as a process: signals, parameter files, and its own end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")

from graph import CONTRACT, STOP, Robot, action, namespace, robot, wait  # noqa: E402

pytestmark = pytest.mark.usefixtures("ros")
ROOT = Path(__file__).resolve().parents[2]
PATHS = [str(ROOT / "ros2_ws/src" / package) for package in ("dipole_policy", "dipole_runtime")]


@contextmanager
def process(
    of: str, *arguments: str, code: str = "", own: Sequence[str] = (), **parameters: Any
) -> Iterator[subprocess.Popen[str]]:
    """The node in a process of its own; ended whatever happens.

    :param arguments: for ROS.
    :param own: for the program itself.
    """
    values = {
        "recover_after_s": 0.2,
        "max_stall_s": 3.0,
        "max_clock_jump_s": 1.0,
        "diagnostics_period_s": 0.1,
        **parameters,
    }
    command = [sys.executable, "-c", f"{code}\nimport sys\nfrom dipole_policy.main import main\nsys.exit(main())"]
    command += [*own, "--ros-args", "-r", f"__ns:={of}", *arguments]
    for name, value in values.items():
        command += ["-p", f"{name}:={str(value).lower() if isinstance(value, bool) else value}"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*PATHS, os.environ.get("PYTHONPATH", "")])}
    running = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        yield running
    finally:
        if running.poll() is None:
            running.kill()
        running.communicate()


@contextmanager
def driving(bundle: Path, contract: Path, **more: Any) -> Iterator[tuple[subprocess.Popen[str], Robot]]:
    of = namespace()
    with robot(of) as found, process(of, bundle=bundle, contract=contract, autostart=True, **more) as running:
        found.drives()
        yield running, found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_with_the_stop(bundle: Path, contract: Path, number: signal.Signals):
    with driving(bundle, contract) as (running, found):
        running.send_signal(number)
        output, _ = running.communicate(timeout=20.0)
        assert running.returncode == 0, output
        assert found.silent(0.3) == []
        assert found.commands[-1] == STOP
        assert found.commands[-2] == action(bundle)
        assert f"stopped: {number.name}" in output
        assert "Traceback" not in output


def test_many_signals_do_not_hurt(bundle: Path, contract: Path):
    with driving(bundle, contract) as (running, found):
        for number in [signal.SIGINT, signal.SIGTERM, signal.SIGHUP] * 20:
            running.send_signal(number)
        output, _ = running.communicate(timeout=20.0)
        assert running.returncode == 0, output
        time.sleep(0.2)
        assert found.commands[-1] == STOP


ELSEWHERE = """
import pathlib, signal, threading, time
def shoot():
    while not pathlib.Path("{file}").exists():
        time.sleep(0.01)
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
    time.sleep(3600)
threading.Thread(target=shoot, daemon=True).start()
"""


def test_a_signal_that_another_thread_is_given(bundle: Path, contract: Path, tmp_path: Path):
    file = tmp_path / "shoot"
    with driving(bundle, contract, code=ELSEWHERE.format(file=file)) as (running, found):
        file.touch()
        output, _ = running.communicate(timeout=20.0)
        assert running.returncode == 0, output
        time.sleep(0.2)
        assert found.commands[-1] == STOP


LATE = """
import os
class Late:
    def __init__(self, kill, own):
        self.kill, self.own = kill, own
    def __del__(self):
        for number in (2, 15, 1):
            self.kill(self.own, number)
late = Late(os.kill, os.getpid())
"""
"""Signals after the interpreter has put the default handlers back: when it removes a module's names."""


def test_signals_while_the_interpreter_ends(bundle: Path, contract: Path):
    with driving(bundle, contract, code=LATE) as (running, found):
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=20.0)
        assert running.returncode == 0, output
        time.sleep(0.2)
        assert found.commands[-1] == STOP


@pytest.fixture
def other() -> Iterator[subprocess.Popen[bytes]]:
    """A process that does nothing, in the place of ros2 launch."""
    running = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    yield running
    running.kill()
    running.wait()


@pytest.mark.parametrize("code", ["", "import os\ndel os.pidfd_open"], ids=["descriptor", "looking"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_end_of_another_process_ends_with_the_stop(
    bundle: Path, contract: Path, other: subprocess.Popen[bytes], number: signal.Signals, code: str
):
    with driving(bundle, contract, code=code, own=["--end-with", str(other.pid)]) as (running, found):
        assert running.poll() is None
        other.send_signal(number)
        other.wait()
        output, _ = running.communicate(timeout=20.0)
        assert running.returncode == 0, output
        assert found.silent(0.3) == []
        assert found.commands[-1] == STOP
        assert found.commands[-2] == action(bundle)
        assert f"stopped: process {other.pid} has ended" in output


def test_a_signal_counts_also_where_another_process_does(bundle: Path, contract: Path, other: subprocess.Popen[bytes]):
    with driving(bundle, contract, own=["--end-with", str(other.pid)]) as (running, found):
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=20.0)
        assert running.returncode == 0, output
        assert "stopped: SIGINT" in output
        time.sleep(0.2)
        assert found.commands[-1] == STOP


def test_a_process_that_has_ended_before(bundle: Path, contract: Path, other: subprocess.Popen[bytes]):
    other.kill()
    other.wait()
    of = namespace()
    own = ["--end-with", str(other.pid)]
    with robot(of) as found, process(of, own=own, bundle=bundle, contract=contract, autostart=True) as running:
        output, _ = running.communicate(timeout=20.0)
        assert running.returncode == 0, output
        assert [command for command in found.commands if command != STOP] == []


@pytest.mark.parametrize("given", ["0", "-1", "launch"])
def test_what_is_no_process(given: str):
    with process(namespace(), own=[f"--end-with={given}"]) as running:
        output, _ = running.communicate(timeout=20.0)
        assert running.returncode == 2
        assert "--end-with" in output
        assert "Traceback" not in output


HANGING = """
import time
from dipole_runtime import GuidedPolicy
act, calls = GuidedPolicy.act, []
def hang(*arguments, **more):
    calls.append(1)
    if len(calls) > 20:
        time.sleep(3600)
    return act(*arguments, **more)
GuidedPolicy.act = hang
"""


def test_a_signal_while_an_inference_hangs(bundle: Path, contract: Path):
    contract.write_text(CONTRACT.replace("deadline_s: 1.0", "deadline_s: 10.0"))
    with driving(bundle, contract, code=HANGING) as (running, found):
        wait(lambda: len(found.driven) >= 15, "some decisions")
        time.sleep(1.0)
        assert found.silent(0.2) == [], "it hangs"
        assert found.commands[-1] != STOP
        running.send_signal(signal.SIGTERM)
        output, _ = running.communicate(timeout=20.0)
        assert found.commands[-1] == STOP
        assert running.returncode == 1
        assert "a callback does not end" in output


BROKEN_EXECUTOR = """
import pathlib
from dipole_policy.executor import ThreadsExecutor
spin_once, calls = ThreadsExecutor.spin_once, []
def fail(self, timeout_sec=None):
    if pathlib.Path("{file}").exists() and len(calls) < {times}:
        calls.append(1)
        raise RuntimeError("out of file descriptors")
    return spin_once(self, timeout_sec)
ThreadsExecutor.spin_once = fail
"""


def test_an_exception_in_the_executor_is_a_stop_and_driving_goes_on(bundle: Path, contract: Path, tmp_path: Path):
    file = tmp_path / "broken"
    code = BROKEN_EXECUTOR.format(file=file, times=10)
    with driving(bundle, contract, code=code) as (_, found):
        file.touch()
        found.told("exception: RuntimeError: out of file descriptors")
        assert STOP in found.commands
        found.drives()


def test_an_executor_that_cannot_go_on_ends_with_the_stop(bundle: Path, contract: Path, tmp_path: Path):
    file = tmp_path / "broken"
    code = BROKEN_EXECUTOR.format(file=file, times=10**9)
    with driving(bundle, contract, code=code) as (running, found):
        file.touch()
        output, _ = running.communicate(timeout=30.0)
        assert running.returncode == 1
        assert "the executor fails again and again: out of file descriptors" in output
        time.sleep(0.2)
        assert found.commands[-1] == STOP


def test_the_shipped_parameter_file(bundle: Path, contract: Path):
    file = ROOT / "ros2_ws/src/dipole_policy/config/dipole_policy.yaml"
    of = namespace()
    values = {"bundle": bundle, "contract": contract, "autostart": True}
    with robot(of) as found, process(of, "--params-file", str(file), **values) as running:
        found.drives()
        assert found.get("omega") == 0.5
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=20.0)
        assert found.commands[-1] == STOP


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("/**:\n  ros__parameters:\n    threads: [", "the parameter file cannot be read"),
        ("/**:\n  ros__parameters:\n    recover_automaticaly: false\n", "parameter recover_automaticaly is unknown"),
        ("/**:\n  ros__parameters:\n    threads: 0\n", "parameter threads: "),
        (None, "the parameter file cannot be read"),
    ],
)
def test_a_bad_parameter_file_fails_configure_and_the_process_stays(
    bundle: Path, contract: Path, tmp_path: Path, content: str | None, message: str
):
    file = tmp_path / "parameters.yaml"
    if content is not None:
        file.write_text(content)
    of = namespace()
    arguments = ("--params-file", str(file))
    with robot(of) as found, process(of, *arguments, bundle=bundle, contract=contract, autostart=True) as running:
        assert message in found.told("configuring failed")["problem"]
        assert found.state() == "unconfigured"
        assert running.poll() is None
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=20.0)
        assert running.returncode == 0, output
        assert message in output
        assert found.commands == []
