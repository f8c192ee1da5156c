"""What the node says about itself: /diagnostics, ~/status, ~/audit, and the log of its wiring."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from dipole_policy import reports, typed
from dipole_policy.omega import OmegaRecord
from dipole_policy.session import LATCHED, REPORT, Session
from dipole_policy.typed import TypedTopic

AUDIT = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


class Announcements:
    """Publishes the node's state and the records of its ω.

    :param session: gives the session; None while the node is unconfigured.
    :param lifecycle: gives the label of the lifecycle's state.
    :param problem: gives why configuring or reloading failed last; None if it did not.
    """

    def __init__(
        self,
        node: Node,
        session: Callable[[], Session | None],
        lifecycle: Callable[[], str],
        problem: Callable[[], str | None],
    ) -> None:
        self._node, self._session, self._lifecycle, self._problem = node, session, lifecycle, problem
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", REPORT)
        self._audit = node.create_publisher(DiagnosticArray, "~/audit", AUDIT)
        self._omega_change = TypedTopic(node, "OmegaChange", AUDIT, typed.omega_change, to_nobody=True)
        self._status = node.create_publisher(DiagnosticStatus, "~/status", LATCHED)
        self.numbers: Iterator[int] = count(1)
        """Of the audit's records."""
        self._last_status: tuple[str, ...] = ()
        self._last_wiring: Mapping[str, str] = {}
        self._told_wiring: dict[str, str] = {}

    def diagnostics(self) -> None:
        """Publishes the node's state now."""
        session, now = self._session(), self._node.get_clock().now()
        wiring = {} if session is None else session.wiring_problems()
        loop = None if session is None else session.loop
        title = f"dipole_policy: {self._node.get_fully_qualified_name()}"
        status = reports.diagnostics(title, self._lifecycle(), self._problem(), loop, now.nanoseconds, wiring)
        array = DiagnosticArray(status=[status])
        array.header.stamp = now.to_msg()
        self._diagnostics.publish(array)
        self._log_wiring(wiring)
        self.status()

    def status(self) -> None:
        """Publishes ~/status if it has changed."""
        session = self._session()
        loop = None if session is None else session.loop
        now_ns = self._node.get_clock().now().nanoseconds
        status = reports.driving(self._node.get_fully_qualified_name(), loop, self._problem(), now_ns)
        shown = (status.message, *(value.value for value in status.values if value.key != "time_ns"))
        if shown != self._last_status:
            self._last_status = shown
            self._status.publish(status)

    def _log_wiring(self, wiring: Mapping[str, str]) -> None:
        """Logs each problem once, when it has lasted from one diagnostic to the next: connecting takes a moment."""
        for topic, problem in wiring.items():
            if self._last_wiring.get(topic) == problem and self._told_wiring.get(topic) != problem:
                self._told_wiring[topic] = problem
                self._node.get_logger().warning(problem)
        self._told_wiring = {topic: told for topic, told in self._told_wiring.items() if topic in wiring}
        self._last_wiring = wiring

    def record(self, record: OmegaRecord) -> None:
        """Publishes a record of ω."""
        stamp = self._node.get_clock().now().to_msg()
        self._audit.publish(reports.audit(record, self._node.get_fully_qualified_name(), stamp))
        self._omega_change.publish(record)

    def record_early(self, before: float, value: Any, source: str, refused: str | None) -> None:
        """Records a request for ω that comes while the node is unconfigured.

        :param before: the parameter's value before.
        :param refused: why it is refused; None: it is kept until the node is configured.
        """
        new = float(value) if isinstance(value, int | float) else math.nan
        reason = refused or "accepted, for the time when the node is configured"
        now_ns = self._node.get_clock().now().nanoseconds
        self.record(OmegaRecord(next(self.numbers), now_ns, source, before, new, refused is None, reason))
