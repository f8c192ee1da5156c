"""Everything that exists only while the node is configured: the control loop and its topics."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import ClockChange, JumpThreshold, TimeJump
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy
from rclpy.time import Time
from std_msgs.msg import Float64MultiArray

from dipole_policy import reports, typed, wiring
from dipole_policy.action import Command
from dipole_policy.clocks import ClockGuard
from dipole_policy.contract import ActionEntry, Contract
from dipole_policy.deadlines import Deadlines
from dipole_policy.errors import Cause, ContractError, Kind, one_line
from dipole_policy.fields import describe_installed, message_class
from dipole_policy.holder import Fitting, Loaded, PolicyHolder
from dipole_policy.intake import Intake, overridable, profile
from dipole_policy.loop import ControlLoop, Decision, watch_interval_s
from dipole_policy.observation import Inputs
from dipole_policy.omega import OmegaControl, OmegaRecord
from dipole_policy.outlets import outlets
from dipole_policy.pacer import Pacer
from dipole_policy.parameters import Settings
from dipole_policy.supervisor import StopRequest, Supervisor
from dipole_policy.typed import TypedTopic
from dipole_policy.watchdog import Watchdog
from dipole_policy.wire import Wire

COMMAND = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)
REPORT = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)

LEASE_S = 1.0
"""Seconds after which a subscriber that asks for liveliness learns that the node's process is gone."""
_OFFERED_PERIODS = 5
"""A command at least every so many periods is promised to subscribers that ask for a deadline."""


class Session:
    """Everything that configuring creates and cleaning up removes.

    :param record: called with the audit's records.
    :param numbers: the numbers of those records.
    :param on_fault: called with every cause that stops the robot, and whether it is new.
    :param on_state: called when the drive's state has changed.
    :param stop_request: outlives the session.
    :raises ContractError: settings, contract and bundle do not fit together.
    :raises GuidedPolicyError: the bundle is refused.
    """

    def __init__(
        self,
        node: Node,
        settings: Settings,
        record: Callable[[OmegaRecord], None],
        numbers: Iterator[int],
        on_fault: Callable[[Cause, bool], None],
        on_state: Callable[[], None],
        stop_request: StopRequest,
    ) -> None:
        for name in ("contract", "bundle"):
            if not getattr(settings, name):
                raise ContractError(f"parameter {name} is empty, expected a path")
        self._node, self._settings = node, settings
        self._tell_fault = on_fault
        self.contract = contract = Contract.load(settings.contract).with_topics(node.resolve_topic_name)
        self.fitting = Fitting(contract, describe_installed, settings.options)
        loaded = self.fitting.load(settings.bundle)
        for writer in loaded.writers:
            writer.try_out(_make)
        omega = OmegaControl(loaded.policy.manifest.omega, settings.omega_slew_per_s, self.now_ns, record, numbers)
        self._entities: list[tuple[Callable[[Any], object], Any]] = []
        self._commands: dict[str, Any] = {}
        self._holder = PolicyHolder(loaded)
        self.inputs = Inputs(self.fitting.input_readers)
        self.loop = ControlLoop(
            self._holder,
            self.inputs,
            Wire(outlets(contract, loaded, self.inputs, self.now_ns, self._publish), loaded.limits.size),
            Supervisor(settings.recover_after_s, settings.recover_automatically, stop_request),
            omega,
            ClockGuard(settings.simulated, settings.max_clock_jump_s),
            deadlines=Deadlines(contract.deadline_s, contract.deadline_misses, contract.period_s),
            period_s=contract.period_s,
            now_ns=self.now_ns,
            on_decision=self._report,
            on_fault=self._on_fault,
            on_state=on_state,
            shadow_only=settings.shadow_only,
        )
        self._control_group = MutuallyExclusiveCallbackGroup()
        self._timer: Any = None
        self._pacer: Pacer | None = None
        self._watchdog: Watchdog | None = None
        self._is_driving = False
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        settings, omega = self._settings, self.loop.omega
        initial = settings.omega
        if omega.range is not None and math.isnan(initial):
            initial = omega.range.default
        # A value of ω that remains from an earlier bundle is not a request to a policy without ω.
        is_asked_for = not math.isnan(initial) and (omega.range is not None or initial != settings.left_omega)
        problem = omega.begin(initial, "configure") if is_asked_for else None
        problem = problem or self.loop.shadow_problem(settings.shadow_omegas)
        if problem is not None:
            raise ContractError(f"parameter {problem}")
        self.loop.shadow_omegas = settings.shadow_omegas
        for entry in self.contract.actions:
            self._commands[entry.topic] = self._command_publisher(entry)
        self._listen()
        self._driven = self._publisher("~/driven")
        self._shadow = self._publisher("~/shadow")
        self._latency = self._publisher("~/latency")
        self._typed_driven = self._typed("Driven", typed.driven)
        self._typed_shadow = self._typed("Shadow", typed.shadow)
        self._typed_latency = self._typed("Latency", typed.latency)
        self._model_info = self._node.create_publisher(DiagnosticStatus, "~/model_info", LATCHED)
        self._entities.append((self._node.destroy_publisher, self._model_info))
        self.announce()

    def now_ns(self) -> int:
        """The node's clock."""
        return int(self._node.get_clock().now().nanoseconds)

    def announce(self) -> None:
        """Publishes a description of the driving bundle."""
        self._model_info.publish(reports.model_info(self._holder.current, self._node.get_fully_qualified_name()))

    def start(self) -> None:
        """The node becomes active."""
        self.loop.start()
        self._watchdog = Watchdog(
            lambda: self.loop.watch(self._settings.max_stall_s),
            watch_interval_s(self.contract.period_s, self.contract.deadline_s),
            self._watch_failed,
        )
        # A simulation's clock sets the pace if there is one; otherwise the steady clock, which cannot be set back.
        if self._settings.simulated:
            self._timer = self._node.create_timer(
                self.contract.period_s, self.loop.period, callback_group=self._control_group
            )
        else:
            self._pacer = Pacer(self.loop.period, self.contract.period_s)

    def end(self) -> None:
        """The node is no longer active. Safe to call from any thread, and more than once."""
        try:
            self.loop.end()
        finally:
            timer, self._timer = self._timer, None
            pacer, self._pacer = self._pacer, None
            watchdog, self._watchdog = self._watchdog, None
            if timer is not None:
                self._node.destroy_timer(timer)
            if pacer is not None:
                pacer.end()
            if watchdog is not None:
                watchdog.end()

    def halt(self, wait_s: float) -> bool:
        """As :meth:`end`, for threads other than ROS's; waits until the last command has reached its subscribers.

        :param wait_s: longest time to wait.
        :return: whether the control loop has ended; False if it hangs.
        """
        self.loop.end()
        end = monotonic() + wait_s
        for publisher in self._commands.values():
            publisher.wait_for_all_acked(Duration(seconds=max(0.0, end - monotonic())))
        pacer = self._pacer
        return pacer is None or pacer.end()

    def stop_for(self, error: Exception) -> None:
        """An exception outside the control loop."""
        self.loop.stop(Cause(Kind.EXCEPTION, f"{type(error).__name__}: {one_line(error)}"))

    def close(self) -> None:
        """Removes everything."""
        for destroy, entity in reversed(self._entities):
            destroy(entity)
        self._entities.clear()

    def prepare(self, path: str) -> Loaded:
        """Loads a bundle that can take over; takes seconds.

        :raises ContractError, GuidedPolicyError, ReloadBusy: see :class:`Fitting`, :class:`PolicyHolder`.
        """
        with self._holder.reloading():
            return self.fitting.replace(self._holder.current, path)

    def _publisher(self, topic: str) -> Any:
        publisher = self._node.create_publisher(Float64MultiArray, topic, REPORT)
        self._entities.append((self._node.destroy_publisher, publisher))
        return publisher

    def _typed(self, name: str, fill: Callable[[Decision, typed.Make], Any]) -> TypedTopic[Decision]:
        topic = TypedTopic(self._node, name, REPORT, fill)
        self._entities.append((TypedTopic.close, topic))
        return topic

    def _command_publisher(self, entry: ActionEntry) -> Any:
        """Of one action; whoever asks for a deadline or for liveliness learns when commands stay away."""
        promises = {
            "deadline": Duration(seconds=_OFFERED_PERIODS * self.contract.period_s),
            "liveliness": LivelinessPolicy.AUTOMATIC,
            "liveliness_lease_duration": Duration(seconds=LEASE_S),
        }
        publisher = self._node.create_publisher(
            message_class(entry.type),
            entry.topic,
            profile(entry.qos, **promises),
            qos_overriding_options=overridable(self._node, entry.topic),
        )
        self._entities.append((self._node.destroy_publisher, publisher))
        return publisher

    def _publish(self, index: int, command: Command) -> None:
        stamp = Time(nanoseconds=self.now_ns()).to_msg()
        writer = self._holder.current.writers[index]
        message = writer.message(command, _make, stamp)
        if message is not None:
            self._commands[writer.entry.topic].publish(message)

    def _listen(self) -> None:
        period_ns = round(self.contract.period_s * 1e9) if self._settings.simulated else None
        self._intake = Intake(self._node, self.inputs, self.now_ns, period_ns)
        self._entities.append((lambda intake: intake.close(), self._intake))
        # Between two periods a clock may jump back and catch up again; this callback notices it.
        threshold = JumpThreshold(min_forward=None, min_backward=Duration(nanoseconds=-1), on_clock_change=True)
        handle = self._node.get_clock().create_jump_callback(threshold, post_callback=self._jumped)
        self._entities.append((lambda entity: entity.unregister(), handle))

    def wiring_problems(self) -> dict[str, str]:
        """Topic → why nothing can come or go there; topics that are connected are not in it."""
        return wiring.problems(self._node, self._commands, self._intake.subscriptions, self.inputs.snapshot())

    def _jumped(self, jump: TimeJump) -> None:
        jumped_s = jump.delta.nanoseconds * 1e-9
        if jump.clock_change == ClockChange.ROS_TIME_NO_CHANGE:
            self.loop.clock_jumped(Cause(Kind.CLOCK, f"the clock jumped by {jumped_s:.3f} s"))
        else:
            self.loop.clock_jumped(Cause(Kind.CLOCK, "the clock was switched between simulated and real time"))

    def _on_fault(self, cause: Cause, news: bool) -> None:
        self._is_driving = False
        self._tell_fault(cause, news)

    def _report(self, decision: Decision) -> None:
        if decision.number is not None and not self._is_driving:
            self._is_driving = True
            omega = decision.action.omega
            self._node.get_logger().info("driving" if omega is None else f"driving at omega {omega}")
        if decision.number is not None:
            self._driven.publish(reports.driven(decision))
            self._typed_driven.publish(decision)
        if decision.shadow:
            self._shadow.publish(reports.shadow(decision))
            self._typed_shadow.publish(decision)
        self._latency.publish(reports.latency(decision))
        self._typed_latency.publish(decision)

    def _watch_failed(self, error: Exception) -> None:
        self._node.get_logger().error(f"the watchdog failed: {one_line(error)}")


def _make(name: str) -> Any:
    return message_class(name)()
