"""One control period: inputs → observation → policy → command, or the stop action and its cause."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np
from dipole_runtime import GuidedAction
from dipole_runtime.manifest import OmegaRange

from dipole_policy.action import Command
from dipole_policy.clocks import ClockGuard
from dipole_policy.deadlines import Deadlines
from dipole_policy.errors import Cause, ContractError, InputError, Kind, one_line
from dipole_policy.holder import Loaded, PolicyHolder
from dipole_policy.observation import Inputs
from dipole_policy.omega import OmegaControl, omega_problem
from dipole_policy.statistics import Statistics
from dipole_policy.supervisor import State, Supervisor
from dipole_policy.topic_reader import Received
from dipole_policy.wire import Wire

REQUESTED = Cause(Kind.REQUEST, "a stop was asked for, ~/resume ends it")
_LONGEST_SILENCE_OF_CLOCK_S = 1.0
"""Seconds of the wall until a simulation's clock that never spoke is told of, where any pause is allowed."""
_SHORTEST_WATCH_S = 0.02
"""Seconds between two looks at the loop, where the control period is not shorter."""


@dataclass(frozen=True, eq=False)
class Decision:
    """The result of one period.

    :param number: number of the command sent; None if none was sent (recovering, or shadow only).
    :param command: after bounds and rates.
    :param action: the policy's action, with the ω in force, if the policy has one.
    :param shadow: the actions for each shadow ω.
    :param time_ns: time of the node's clock when the observation was taken.
    :param elapsed_s: time from the period's start to the command.
    :param period_s: time since the start of the previous period; NaN for the first.
    """

    number: int | None
    command: Command
    action: GuidedAction
    shadow: Sequence[GuidedAction]
    loaded: Loaded
    time_ns: int
    elapsed_s: float
    period_s: float


def distance(action: GuidedAction, driven: GuidedAction, loaded: Loaded) -> float:
    """Distance between two actions: root mean square over the elements, each as a share of its range."""
    difference = (action.action - driven.action).reshape(-1) / (loaded.limits.high - loaded.limits.low)
    return float(np.sqrt(np.mean(difference**2)))


class ControlLoop:
    """Runs one control period per call; it receives everything it needs and does not depend on ROS.

    :param deadlines: which late periods stop the robot; the decision of a late one is dropped in any case.
    :param now_ns: returns the time of the node's clock.
    :param on_decision: called with every decision, after its command was sent.
    :param on_fault: called with every cause, and whether it is new.
    :param on_state: called after a period in which the supervisor's state has changed.
    :param shadow_only: whether decisions are made and reported, but no command is sent.
    :param steady: returns the seconds of a clock that never jumps.
    """

    def __init__(
        self,
        holder: PolicyHolder,
        inputs: Inputs,
        wire: Wire,
        supervisor: Supervisor,
        omega: OmegaControl,
        clock: ClockGuard,
        *,
        deadlines: Deadlines,
        period_s: float,
        now_ns: Callable[[], int],
        on_decision: Callable[[Decision], None],
        on_fault: Callable[[Cause, bool], None],
        on_state: Callable[[], None] = lambda: None,
        shadow_only: bool = False,
        steady: Callable[[], float] = monotonic,
    ) -> None:
        self.statistics = Statistics(period_s)
        self.shadow_omegas: tuple[float, ...] = ()
        self.holder, self.inputs, self.wire, self.supervisor, self.omega = holder, inputs, wire, supervisor, omega
        self._clock = clock
        self.deadlines = deadlines
        self._period_s = period_s
        self._now_ns = now_ns
        self._on_decision, self._on_fault = on_decision, on_fault
        self._shadow_only = shadow_only
        self._steady = steady
        self._one_at_a_time = threading.Lock()
        self._under_way: float | None = None
        self._last_end = steady()
        self._on_state = on_state
        self._shown_state = State.OFF
        self.telling_failed = ""
        """What went wrong the last time that something was told; empty: nothing."""

    def start(self) -> None:
        """The node has become active."""
        self.inputs.forget(self._now_ns())
        self._clock.forget()
        self.deadlines.forget()
        self.statistics.paused()
        self._last_end = self._steady()
        self.supervisor.start()
        if not self._shadow_only:
            self.wire.open()

    def end(self) -> None:
        """The node is no longer active; the stop action is the last command."""
        try:
            self.wire.close()
        finally:
            self.supervisor.off()

    def period(self) -> None:
        """One control period. Never raises: any exception becomes a stop with its cause."""
        # A period of an earlier activation may still hang.
        with self._one_at_a_time:
            started = self._steady()
            ticket = self.wire.ticket()
            self._under_way = started
            try:
                decision = self._decide(started, ticket)
                self._under_way = None
                if decision is not None:
                    self._on_decision(decision)
            except InputError as error:
                self.stop(error.cause)
            except Exception as error:
                self.stop(Cause(Kind.EXCEPTION, f"{type(error).__name__}: {one_line(error)}"))
            finally:
                self._under_way = None
                self._last_end = self._steady()
                self._show_state()

    def _decide(self, started: float, ticket: int) -> Decision | None:
        now_ns = self._now_ns()
        elapsed = self.statistics.started(started)
        if (cause := self._clock.check(now_ns, started)) is not None:
            self.clock_jumped(cause)
            return None
        # One snapshot of each: a reload, a message or a change of ω after this takes effect in the next period. Bundle
        # and ω belong together; the messages are those of the contract whichever bundle drives, and reading them may
        # take a while.
        inputs = self.inputs.snapshot()
        with self.omega.lock:
            loaded, shadow = self.holder.current, self.shadow_omegas
            omega = self.omega.step(self._period_s if elapsed is None else elapsed)
        observation = loaded.layout.build(inputs, now_ns)
        driven, *others = loaded.decide(observation, omega, shadow)
        self.statistics.inferred(driven.latency_s)
        command = loaded.limits.apply(driven.action, self._previous(loaded, inputs, now_ns))
        now = self._steady()
        if self.deadlines.is_late(started, now):
            self._miss(started, now, "took")
            return None
        self.deadlines.kept(now)
        number = None
        if self.supervisor.well(self._steady()):
            number = self.wire.drive(command, ticket)
        elif not self._shadow_only:
            self.wire.stop()
        spent = self._steady() - started
        return Decision(
            number, command, driven, others, loaded, now_ns, spent, math.nan if elapsed is None else elapsed
        )

    def _previous(self, loaded: Loaded, inputs: Mapping[str, Received], now_ns: int) -> Command:
        """What the rates count from: the last command or, if a stop came after it, where the robot is measured."""
        previous = self.wire.last
        if self.wire.is_driving or not loaded.starts:
            return previous
        previous = np.array(previous)
        for start in loaded.starts:
            previous[start.part] = start.read(inputs, now_ns)
        return previous

    def shadow_problem(self, omegas: Sequence[object]) -> str | None:
        """Why these cannot be the shadow's values of ω; None if they can."""
        return _shadow_problem(omegas, self.omega.range)

    def require_swap(self, loaded: Loaded) -> None:
        """Checks that :meth:`swap` would succeed while ``omega.lock`` is held.

        :raises ContractError: a value of ω in force is outside the bundle's range.
        """
        omega = loaded.policy.manifest.omega
        problem = _shadow_problem(self.shadow_omegas, omega) or self.omega.range_problem(omega)
        if problem is not None:
            raise ContractError(f"bundle {loaded.path}: {problem}")

    def swap(self, loaded: Loaded) -> None:
        """Drives with another bundle from the next period on.

        :raises ContractError: see :meth:`require_swap`; nothing has changed then.
        """
        with self.omega.lock:
            self.require_swap(loaded)
            self.omega.change_range(loaded.policy.manifest.omega)
            self.holder.swap(loaded)

    def stop(self, cause: Cause) -> None:
        """Sends the stop action and records the cause. Safe to call from any thread."""
        news = self.supervisor.fault(cause)
        try:
            self.wire.stop()
        except Exception as error:
            cause = Cause(Kind.EXCEPTION, f"the stop action cannot be sent ({one_line(error)}) after {cause}")
            news = True
        self.statistics.fault(cause.kind.value)
        self._tell(lambda: self._on_fault(cause, news))

    def request_stop(self) -> None:
        """Stops until :meth:`Supervisor.resume`. Safe to call from any thread.

        :raises Exception: the publisher's; the robot does not drive on all the same.
        """
        self.supervisor.request_stop(REQUESTED)
        self.statistics.fault(REQUESTED.kind.value)
        try:
            self.wire.stop()
        finally:
            self._tell(lambda: self._on_fault(REQUESTED, True))

    def _tell(self, call: Callable[[], None]) -> None:
        """Nothing that is told may end the control loop."""
        try:
            call()
        except Exception as error:
            self.telling_failed = one_line(error)

    def _show_state(self) -> None:
        state = self.supervisor.state
        if state is not self._shown_state:
            self._shown_state = state
            self._tell(self._on_state)

    def clock_jumped(self, cause: Cause) -> None:
        """The clock jumped: for inputs that arrived earlier, fresh and stale can no longer be distinguished."""
        self.stop(cause)
        self._clock.forget()
        self.inputs.forget(self._now_ns())

    def watch(self, largest_gap_s: float) -> None:
        """Stops the robot if the loop hangs or is not run. Call it from another thread, see :func:`watch_interval_s`.

        :param largest_gap_s: longest allowed time between two periods, if that is more than two of them; 0: no limit,
            for a simulation that may pause.
        """
        now, under_way = self._steady(), self._under_way
        gap = now - self._last_end
        if under_way is not None:
            if self.deadlines.is_late(under_way, now):
                self._miss(under_way, now, "is still not over after")
        elif gap > max(largest_gap_s or _LONGEST_SILENCE_OF_CLOCK_S, 2.0 * self._period_s):
            now_ns = self._now_ns()
            if (silent := self._clock.silent(now_ns)) is not None:
                self.stop(silent)
            elif largest_gap_s > 0.0:
                detail = f"no control period for {gap:.3f} s, expected one every {self._period_s} s"
                self.stop(Cause(Kind.STALLED, detail + self._clock.standing_at(now_ns)))

    def _miss(self, started: float, now: float, verb: str) -> None:
        """A period is late: its decision is dropped, and too many of them stop the robot."""
        reason = self.deadlines.check(started, now)
        if reason is not None:
            detail = f"the control period {verb} {now - started:.4f} s, expected at most {self.deadlines.deadline_s} s"
            self.stop(Cause(Kind.DEADLINE, f"{detail} ({reason})" if self.deadlines.tolerance.allowed else detail))
            return
        self.supervisor.unwell()
        if self.supervisor.state is not State.DRIVING and not self._shadow_only:
            # A stop is sent in every period until driving resumes, also in late ones.
            self.wire.stop()


def watch_interval_s(period_s: float, deadline_s: float) -> float:
    """Seconds between two looks of :meth:`ControlLoop.watch`: often enough for a deadline shorter than the period."""
    return min(period_s, max(deadline_s / 2.0, _SHORTEST_WATCH_S))


def _shadow_problem(omegas: Sequence[object], limits: OmegaRange | None) -> str | None:
    problems = (omega_problem(value, limits) for value in omegas)
    return next((f"shadow_omegas: {problem}" for problem in problems if problem is not None), None)
