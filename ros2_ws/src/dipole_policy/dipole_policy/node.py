"""The managed node: lifecycle, parameters and services around a session."""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from typing import Any

from dipole_runtime import GuidedPolicyError
from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import CallbackGroup, MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.parameter_service import ParameterService
from rclpy.qos import QoSProfile, ReliabilityPolicy
from std_msgs.msg import Float64
from std_srvs.srv import Trigger

from dipole_policy import parameters, rclpy_names
from dipole_policy.announcements import Announcements
from dipole_policy.bond import ManagerBond
from dipole_policy.errors import Cause, ContractError, one_line
from dipole_policy.holder import Loaded, ReloadBusy, require_in_root
from dipole_policy.session import Session
from dipole_policy.stopping import StopServices
from dipole_policy.supervisor import State
from dipole_policy.transitions import guard_transitions

TURNS = QoSProfile(depth=100, reliability=ReliabilityPolicy.RELIABLE)
"""QoS of ~/omega: deep, because every value of a dial that is turned quickly must appear in the audit."""

_REFUSALS = (ContractError, GuidedPolicyError, ReloadBusy)


class PolicyNode(LifecycleNode):  # type: ignore[misc]  # rclpy is not typed
    """Drives a robot with a bundle under a contract; see the package's documentation for topics and parameters.

    :param problem: what was wrong with the command line; if not None, configuring fails with it.
    :param kwargs: as for :class:`rclpy.lifecycle.LifecycleNode`.
    """

    _services_group: CallbackGroup | None = None

    def __init__(self, name: str = "dipole_policy", *, problem: str | None = None, **kwargs: Any) -> None:
        self._parameter_lock = threading.RLock()
        self._session: Session | None = None
        self._halted = False
        self._is_showing = False
        self._left_omega = math.nan
        self._problem = self._command_line_problem = problem
        self._bundle_root = ""
        self._parameter_problems: dict[str, str] = {}
        super().__init__(name, start_parameter_services=False, **kwargs)
        if (unknown := rclpy_names.problem(self)) is not None:
            self._problem = self._command_line_problem = unknown
        self._parameter_problems = parameters.declare(self)
        self._unknown = parameters.undeclared(self)
        self._simulated = bool(self.get_parameter("use_sim_time").value)
        self.add_on_set_parameters_callback(self._validate)
        # Setting a bundle takes seconds. rclpy creates its own parameter services in the default group; if that were
        # the lifecycle's group, they would delay /clock and the lifecycle's services.
        lifecycle_group = self.default_callback_group
        self._services_group = MutuallyExclusiveCallbackGroup()
        self._parameter_service = ParameterService(self)
        self._announce = Announcements(self, lambda: self._session, lambda: self.state_label, lambda: self._problem)
        self.create_service(Trigger, "~/reload", self._on_reload, callback_group=MutuallyExclusiveCallbackGroup())
        self._bond = ManagerBond(self)
        self._stops = StopServices(self, lambda: self._session, self._announce.status)
        self.create_subscription(
            Float64, "~/omega", self._on_omega, TURNS, callback_group=MutuallyExclusiveCallbackGroup()
        )
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(
            self.get_parameter("diagnostics_period_s").value,
            self.publish_diagnostics,
            callback_group=MutuallyExclusiveCallbackGroup(),
            clock=steady,
        )
        guard_transitions(getattr(self, "_service_change_state", None), self.get_logger().error)
        if self.get_parameter("autostart").value:
            # In the lifecycle's group, so that no other callback changes the state at the same time.
            self._autostart = self.create_timer(0.01, self._start, callback_group=lifecycle_group, clock=steady)

    @property
    def default_callback_group(self) -> CallbackGroup:
        """The group of everything that is created without naming one; see the constructor."""
        return self._services_group or super().default_callback_group

    @property
    def session(self) -> Session | None:
        """None while the node is unconfigured."""
        return self._session

    @property
    def state_label(self) -> str:
        """Label of the lifecycle state."""
        machine = getattr(self, "_state_machine", None)
        return "unknown" if machine is None else str(machine.current_state[1])

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Reads contract and bundle; if it fails, the problem is in the log and in /diagnostics."""
        try:
            self._configure()
        except Exception as error:
            self._fail("configuring failed", error)
            return TransitionCallbackReturn.FAILURE
        self._problem = None
        self.publish_diagnostics()
        return TransitionCallbackReturn.SUCCESS

    def _configure(self) -> None:
        problems = [*filter(None, [self._command_line_problem]), *self._parameter_problems.values()]
        problems += parameters.unknown(self._unknown, of_topics=False)
        if problems:
            raise ContractError("; ".join(problems))
        settings = parameters.Settings.of(self, self._left_omega)
        if settings.bundle:
            root = settings.bundle_root or os.path.dirname(os.path.realpath(settings.bundle))
            self._bundle_root = os.path.realpath(root)
            require_in_root(settings.bundle, self._bundle_root)
        tell = self._announce
        session = Session(self, settings, tell.record, tell.numbers, self._on_fault, tell.status, self._stops.request)
        if unknown := parameters.unknown(parameters.undeclared(self), of_topics=True):
            session.close()
            raise ContractError("; ".join(unknown))
        with self._parameter_lock:
            self._show_omega(session)
            self._session = session
        loaded = session.loop.holder.current
        self.get_logger().info(f"configured: bundle {loaded.path} ({loaded.policy.hash[:12]})")

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Starts driving as soon as all inputs have arrived."""
        session = self._session
        if session is None or self._halted:
            self._fail("activating failed", ContractError("the node is shutting down or has no bundle"))
            return TransitionCallbackReturn.FAILURE
        try:
            session.start()
        except Exception as error:
            self._end(session)
            self._fail("activating failed", error)
            return TransitionCallbackReturn.FAILURE
        if self._halted:
            # A signal arrived in the meantime.
            self._end(session)
            return TransitionCallbackReturn.FAILURE
        self._bond.form()
        self.publish_diagnostics()
        return TransitionCallbackReturn.SUCCESS

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Sends the stop action as the last command."""
        session = self._session
        stopped = session is None or self._end(session)
        self.publish_diagnostics()
        return TransitionCallbackReturn.SUCCESS if stopped else TransitionCallbackReturn.ERROR

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Returns to unconfigured; other contracts, bundles and parameters can then be configured."""
        self._clean_up()
        return TransitionCallbackReturn.SUCCESS

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Sends the stop action as the last command, in any state."""
        self._clean_up()
        return TransitionCallbackReturn.SUCCESS

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Returns to unconfigured."""
        self._clean_up()
        return TransitionCallbackReturn.SUCCESS

    def destroy_node(self) -> None:
        """As rclpy's method; bondpy's heartbeats end before."""
        self._bond.end()
        super().destroy_node()

    def halt(self, why: str, wait_s: float = 0.5) -> bool:
        """Sends the stop action as the last command of this process and refuses to drive again.

        Safe to call from any thread, whatever the executor is doing.

        :param wait_s: longest time to wait until the command has reached its subscribers.
        :return: whether the control loop has ended; False if it hangs.
        """
        self._halted = True
        session = self._session
        if session is None:
            return True
        try:
            is_over = session.halt(wait_s)
            self.get_logger().info(f"stopped: {why}")
        except Exception as error:
            self.get_logger().fatal(f"the stop action cannot be sent: {one_line(error)}")
            return False
        return is_over

    def executor_failed(self, error: Exception) -> None:
        """An exception outside the control loop: the robot stops until the fault is over."""
        session = self._session
        if session is not None:
            session.stop_for(error)
        self.get_logger().error(f"{type(error).__name__}: {one_line(error)}")

    def publish_diagnostics(self) -> None:
        """Publishes the node's state now."""
        self._announce.diagnostics()

    def set_parameters(self, parameter_list: list[Parameter]) -> list[SetParametersResult]:
        """Sets the parameters one after the other; see :meth:`set_parameters_atomically`."""
        return [self.set_parameters_atomically([parameter]) for parameter in parameter_list]

    def set_parameters_atomically(self, parameter_list: list[Parameter]) -> SetParametersResult:
        """As rclpy's method; the new values then take effect.

        Humble has no callback after parameters are set; all of rclpy's services and methods call this method.
        """
        return self._set(parameter_list, "parameter")

    def _set(self, requested: Sequence[Parameter], source: str) -> SetParametersResult:
        session, changes = self._session, [parameters.as_numbers(change) for change in requested]
        try:
            loaded = None if session is None else self._prepare(session, changes)
        # Whatever is wrong with a bundle, the robot drives on with the one it has.
        except Exception as error:
            self._fail("reloading failed", error)
            for change in changes:
                if change.name == "omega" and session is not None:
                    session.loop.omega.request(change.value, source, one_line(error))
            return SetParametersResult(successful=False, reason=one_line(error))
        with self._parameter_lock:
            if session is None or session is not self._session:
                return self._set_unconfigured(changes, loaded, source)
            loop = session.loop
            with loop.omega.lock:
                try:
                    if loaded is not None:
                        loop.require_swap(loaded)
                except ContractError as error:
                    self._fail("reloading failed", error)
                    return SetParametersResult(successful=False, reason=one_line(error))
                result = super().set_parameters_atomically(list(changes))
                for change in changes:
                    if change.name == "omega":
                        refused = None if result.successful else one_line(result.reason)
                        loop.omega.request(change.value, source, refused)
                    elif result.successful and change.name == "omega_slew_per_s":
                        loop.omega.slew_per_s = float(change.value)
                    elif result.successful and change.name == "shadow_omegas":
                        loop.shadow_omegas = tuple(parameters.omegas(change.value) or ())
                if result.successful and loaded is not None:
                    self._swap(session, loaded)
        return result

    def _set_unconfigured(
        self, changes: Sequence[Parameter], loaded: Loaded | None, source: str
    ) -> SetParametersResult:
        if loaded is not None:
            return SetParametersResult(successful=False, reason="the node was cleaned up while the bundle was loaded")
        before = float(self.get_parameter("omega").value)
        result = super().set_parameters_atomically(list(changes))
        for change in changes:
            if change.name == "omega":
                self._announce.record_early(
                    before, change.value, source, None if result.successful else one_line(result.reason)
                )
        if result.successful:
            for change in changes:
                self._parameter_problems.pop(change.name, None)
                if change.name == "omega":
                    self._left_omega = math.nan
        return result

    def _validate(self, changes: Sequence[Parameter]) -> SetParametersResult:
        if self._is_showing:
            return SetParametersResult(successful=True)
        session = self._session
        reason = parameters.refusal(changes, session is not None, self._simulated)
        for change in changes:
            if reason is None and change.name == "omega":
                reason = self._omega_problem(changes, change.value)
            if reason is None and session is not None and change.name == "shadow_omegas":
                reason = session.loop.shadow_problem(parameters.omegas(change.value) or ())
        return SetParametersResult(successful=reason is None, reason=reason or "")

    def _omega_problem(self, changes: Sequence[Parameter], omega: Any) -> str | None:
        if self._session is not None:
            return self._session.loop.omega.problem(omega)
        bundles = [change.value for change in changes if change.name == "bundle"]
        return parameters.early_omega_problem(omega, bundles[-1] if bundles else self.get_parameter("bundle").value)

    def _prepare(self, session: Session, changes: Sequence[Parameter]) -> Loaded | None:
        paths = [change.value for change in changes if change.name == "bundle"]
        if not paths:
            return None
        if len(changes) > 1:
            raise ContractError("bundle is set together with other parameters, expected it alone while configured")
        if not isinstance(paths[0], str) or not paths[0]:
            raise ContractError("bundle is no path, expected one")
        require_in_root(paths[0], self._bundle_root)
        return session.prepare(paths[0])

    def _show_omega(self, session: Session) -> None:
        """Sets the parameter to the loop's value: the ω in force, or NaN if the policy has no ω."""
        omega = session.loop.omega
        value = math.nan if omega.target is None else omega.target
        # The new value may be outside the old range; requests from outside are checked in _validate.
        self.set_descriptor("omega", parameters.BY_NAME["omega"].descriptor())
        self._is_showing = True
        try:
            super().set_parameters_atomically([Parameter("omega", Parameter.Type.DOUBLE, value)])
        finally:
            self._is_showing = False
        self.set_descriptor("omega", parameters.omega_descriptor(omega.range))

    def _swap(self, session: Session, loaded: Loaded) -> None:
        session.loop.swap(loaded)
        self._show_omega(session)
        self._problem = None
        session.announce()
        self.get_logger().info(f"reloaded: bundle {loaded.path} ({loaded.policy.hash[:12]})")

    def _on_reload(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        session = self._session
        try:
            if session is None:
                raise ContractError("the node is not configured: there is no bundle to reload")
            path = str(self.get_parameter("bundle").value)
            require_in_root(path, self._bundle_root)
            loaded = session.prepare(path)
            with self._parameter_lock, session.loop.omega.lock:
                if session is not self._session:
                    raise ContractError("the node was cleaned up while the bundle was loaded")
                self._swap(session, loaded)
        except Exception as error:
            self._fail("reloading failed", error)
            response.success, response.message = False, one_line(error)
        else:
            response.success, response.message = True, loaded.policy.hash
        return response

    def _on_omega(self, message: Float64) -> None:
        try:
            if self._session is None:
                value, why = float(message.data), "the node is not configured: ~/omega is for driving"
                self._announce.record_early(float(self.get_parameter("omega").value), value, "topic", why)
                return
            self._set([Parameter("omega", Parameter.Type.DOUBLE, float(message.data))], "topic")
        except Exception as error:
            self.executor_failed(error)

    def _on_fault(self, cause: Cause, news: bool) -> None:
        session = self._session
        if news:
            if session is not None and session.loop.supervisor.state is State.WAITING:
                self.get_logger().info(f"waiting: {cause}")
            else:
                self.get_logger().error(f"stopped: {cause}")
            self.publish_diagnostics()

    def _end(self, session: Session) -> bool:
        try:
            session.end()
        except Exception as error:
            self._fail("the stop action cannot be sent", error)
            return False
        finally:
            # After the stop: nothing may delay it.
            self._bond.end()
        return True

    def _clean_up(self) -> None:
        with self._parameter_lock:
            session, self._session = self._session, None
            if session is None:
                return
            self._left_omega = float(self.get_parameter("omega").value)
        self._end(session)
        session.close()
        self.set_descriptor("omega", parameters.BY_NAME["omega"].descriptor())
        self.publish_diagnostics()

    def _fail(self, what: str, error: Exception) -> None:
        kind = "" if isinstance(error, _REFUSALS) else f"{type(error).__name__}: "
        self._problem = f"{what}: {kind}{one_line(error)}"
        self.get_logger().error(self._problem)
        self.publish_diagnostics()

    def _start(self) -> None:
        self.destroy_timer(self._autostart)
        if self.trigger_configure() == TransitionCallbackReturn.SUCCESS:
            self.trigger_activate()
