"""Keeps invalid lifecycle requests from ending the process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dipole_policy.errors import one_line


def guard_transitions(service: Any, tell: Callable[[str], object]) -> None:
    """Refuses a request for a transition that the current state does not have; rclpy would raise and end the executor.

    :param service: the node's own service that changes its state; None: it has none.
    :param tell: called with what was refused.
    """
    if service is None:
        return
    change_state = service.callback

    def guarded(request: Any, response: Any) -> Any:
        try:
            return change_state(request, response)
        except Exception as error:
            tell(f"the transition is refused: {one_line(error)}")
            response.success = False
            return response

    service.callback = guarded
