"""The names that this package uses of rclpy although they are not public, and what is said where one is missing."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Any

OF_THE_NODE = ("_service_change_state", "_state_machine", "_parameter_overrides")
"""Answers requests for transitions; holds the lifecycle's state; the parameters that were given at the start."""
KNOWN = "3.3 (Humble) to 9.1 (Kilted)"


def given_parameters(node: Any) -> dict[str, Any]:
    """The parameters that the node was started with, by name, declared or not."""
    return getattr(node, "_parameter_overrides", {})


def problem(node: Any) -> str | None:
    """Why this rclpy cannot run the node safely, as one sentence; None if it can.

    :param node: a lifecycle node after its construction.
    """
    missing = [name for name in OF_THE_NODE if not hasattr(node, name)]
    if not missing:
        return None
    return f"this rclpy ({_version()}) has no {', '.join(missing)}, expected one from {KNOWN}: the node cannot drive"


def _version() -> str:
    # Wheels and Debian packages have different names.
    for name in ("rclpy", "ros-rclpy"):
        try:
            return installed(name)
        except PackageNotFoundError:
            continue
    return "of an unknown version"
