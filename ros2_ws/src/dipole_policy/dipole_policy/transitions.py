"""Requests for transitions of the lifecycle that must not end the process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dipole_policy.errors import one_line


def guard_transitions(service: Any, tell: Callable[[str], object]) -> None:
    """A request for a transition that the state does not have raises inside rclpy and would end the executor.

    :param service: a node's own for changing its state; None: it has none.
    :param tell: gets what was refused.
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
