"""The process of a node that needs one thread: until a signal ends it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from dipole_policy.errors import one_line


def run(make: Callable[[], Any], refusal: type[Exception], arguments: Sequence[str] | None = None) -> int:
    """Runs a node until a signal ends it.

    :param make: makes the node.
    :param refusal: what it raises with a sentence for the user.
    :param arguments: ROS arguments; None: those of the process.
    :return: the exit status: 0 after a signal, 1 after a refusal.
    """
    rclpy.init(args=None if arguments is None else list(arguments))
    try:
        executor = SingleThreadedExecutor()
        executor.add_node(make())
        executor.spin()
    except refusal as error:
        print(one_line(error), file=sys.stderr)
        return 1
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    finally:
        rclpy.try_shutdown()
    return 0
