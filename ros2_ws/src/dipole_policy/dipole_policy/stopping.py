"""The services ~/stop and ~/resume: a stop by request, which only a resume ends."""

from __future__ import annotations

from collections.abc import Callable

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.node import Node
from std_srvs.srv import Trigger

from dipole_policy.errors import one_line
from dipole_policy.loop import REQUESTED
from dipole_policy.session import Session
from dipole_policy.supervisor import State, StopRequest


class StopServices:
    """Answers both in every state of the lifecycle: what is requested holds over cleaning up and configuring, too.

    :param session: gives the session; None while the node is unconfigured.
    :param tell: publishes the status.
    """

    def __init__(self, node: Node, session: Callable[[], Session | None], tell: Callable[[], None]) -> None:
        self.request = StopRequest()
        self._session, self._tell = session, tell
        for name, answer in (("~/stop", self._on_stop), ("~/resume", self._on_resume)):
            node.create_service(Trigger, name, answer, callback_group=MutuallyExclusiveCallbackGroup())

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        session = self._session()
        response.success, response.message = True, "stopped until ~/resume"
        try:
            if session is None:
                self.request.cause = REQUESTED
            else:
                session.loop.request_stop()
        except Exception as error:
            response.success = False
            response.message = f"it will not drive until ~/resume, but the stop cannot be sent ({one_line(error)})"
        return response

    def _on_resume(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        session, drives = self._session(), False
        if session is None:
            problem = None if self.request.cause is not None else "the node is not configured"
            self.request.cause = None
        else:
            problem = session.loop.supervisor.resume()
            drives = session.loop.supervisor.state is State.DRIVING
        response.success = problem is None
        response.message = problem or ("driving" if drives else "no stop is asked for any more")
        self._tell()
        return response
