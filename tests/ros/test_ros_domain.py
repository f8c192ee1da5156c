"""Test runs that meet on one machine do not meet on the ROS graph."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from domain import Domain, is_used, own_domain

HERE = Path(__file__).parent
HOLDER = """
import sys
from pathlib import Path
from domain import Domain
domain = Domain(range(99, 101), Path(sys.argv[1]))
print(domain.number, flush=True)
sys.stdin.read()
"""


def test_this_process_has_its_own():
    assert os.environ["ROS_DOMAIN_ID"] == str(own_domain().number)


def test_two_processes_have_two(tmp_path: Path):
    """Also while nothing has been started on the domains yet; and a killed process gives its own back."""
    holders = []
    try:
        for _ in range(2):
            environment = {**os.environ, "PYTHONPATH": str(HERE)}
            command = [sys.executable, "-c", HOLDER, str(tmp_path)]
            holders.append(
                subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
        numbers = [int(holder.stdout.readline()) for holder in holders if holder.stdout is not None]
        assert sorted(numbers) == [99, 100]
        with pytest.raises(RuntimeError, match="none of the ROS domains 99 to 100 is free"):
            Domain(range(99, 101), tmp_path)
        holders[0].kill()
        holders[0].wait()
        again = Domain(range(99, 101), tmp_path)
        assert again.number == numbers[0]
        again.release()
    finally:
        for holder in holders:
            holder.kill()
            holder.communicate()


@pytest.mark.parametrize("port", [0, 10, 12])
def test_a_port_that_is_taken_is_a_domain_that_is_taken(tmp_path: Path, port: int):
    number = Domain(range(62, 90), tmp_path).number
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 7400 + 250 * number + port))
        assert is_used(number)
        other_folder = tmp_path / "other"
        other_folder.mkdir()
        with pytest.raises(RuntimeError, match="is free"):
            Domain(range(number, number + 1), other_folder)
    assert not is_used(number)


@pytest.mark.skipif(
    find_spec("rclpy") is None, reason="rclpy is not installed: see the extra 'ros' or your ROS distribution"
)
@pytest.mark.usefixtures("ros")
def test_a_ros_program_is_seen():
    from rclpy.node import Node

    node = Node("somebody")
    try:
        assert is_used(own_domain().number)
    finally:
        node.destroy_node()
