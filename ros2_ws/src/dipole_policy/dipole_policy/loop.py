"""One control period: inputs → observation → policy → command, or the stop action and its cause."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

import numpy as np
from dipole_runtime import GuidedAction
from dipole_runtime.manifest import OmegaRange

from dipole_policy.action import Command
from dipole_policy.clocks import ClockGuard
from dipole_policy.errors import Cause, ContractError, InputError, Kind, one_line
from dipole_policy.holder import Loaded, PolicyHolder
from dipole_policy.observation import Inputs
from dipole_policy.omega import OmegaControl, omega_problem
from dipole_policy.statistics import Statistics
from dipole_policy.supervisor import Supervisor
from dipole_policy.wire import Wire


@dataclass(frozen=True, eq=False)
class Decision:
    """What one period decided.

    :param number: of the command on the wire; None when nothing was driven (recovering, or shadow only).
    :param command: after bounds and rates.
    :param action: of the policy, with the ω in force, if it has one.
    :param shadow: what each shadow ω would have done.
    :param time_ns: the node's clock when the observation was taken.
    :param elapsed_s: from the period's start to the command.
    :param period_s: since the period before; NaN for the first.
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
    """How far two actions are apart: root mean square over the elements, as a share of each one's range."""
    difference = (action.action - driven.action).reshape(-1) / (loaded.limits.high - loaded.limits.low)
    return float(np.sqrt(np.mean(difference**2)))


class ControlLoop:
    """Runs a period when told to; everything that it needs is given, nothing of it is ROS.

    :param now_ns: the node's clock.
    :param on_decision: gets every decision, after its command went out.
    :param on_fault: gets every cause, and whether it is news.
    :param shadow_only: whether decisions are made and reported, but nothing is driven.
    :param steady: seconds of a clock that never jumps.
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
        period_s: float,
        deadline_s: float,
        now_ns: Callable[[], int],
        on_decision: Callable[[Decision], None],
        on_fault: Callable[[Cause, bool], None],
        shadow_only: bool = False,
        steady: Callable[[], float] = monotonic,
    ) -> None:
        self.statistics = Statistics(period_s)
        self.shadow_omegas: tuple[float, ...] = ()
        self.holder, self.inputs, self.wire, self.supervisor, self.omega = holder, inputs, wire, supervisor, omega
        self._clock = clock
        self._deadline_s = deadline_s
        self._period_s = period_s
        self._now_ns = now_ns
        self._on_decision, self._on_fault = on_decision, on_fault
        self._shadow_only = shadow_only
        self._steady = steady
        self._one_at_a_time = threading.Lock()
        self._under_way: tuple[float, int] | None = None
        self._overdue: tuple[float, int] | None = None
        self._last_end = steady()

    def start(self) -> None:
        """The node became active."""
        self.inputs.forget()
        self._clock.forget()
        self.statistics.paused()
        self._last_end = self._steady()
        self.supervisor.start()
        if not self._shadow_only:
            self.wire.open()

    def end(self) -> None:
        """The node is no longer active: the stop action is the last command."""
        try:
            self.wire.close()
        finally:
            self.supervisor.off()

    def period(self) -> None:
        """One control period. Never raises: whatever happens becomes a stop and its cause."""
        # Of an earlier activation, one may still hang.
        with self._one_at_a_time:
            started = self._steady()
            ticket = self.wire.ticket()
            self._under_way = (started, ticket)
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

    def _decide(self, started: float, ticket: int) -> Decision | None:
        now_ns = self._now_ns()
        elapsed = self.statistics.started(started)
        if (cause := self._clock.check(now_ns, started)) is not None:
            self.clock_jumped(cause)
            return None
        # One snapshot of each: a reload, a message or a turn of ω from here on counts for the next period.
        with self.omega.lock:
            loaded, inputs, shadow = self.holder.current, self.inputs.snapshot(), self.shadow_omegas
            omega = self.omega.step(self._period_s if elapsed is None else elapsed)
        observation = loaded.layout.build(inputs, now_ns)
        driven, *others = loaded.decide(observation, omega, shadow)
        self.statistics.inferred(driven.latency_s)
        command = loaded.limits.apply(driven.action, self.wire.last)
        spent = self._steady() - started
        if spent > self._deadline_s:
            if self._overdue != (started, ticket):
                self.stop(self._late(spent, "took"))
            return None
        number = None
        if self.supervisor.well(self._steady()):
            number = self.wire.drive(command, ticket)
        elif not self._shadow_only:
            self.wire.stop()
        spent = self._steady() - started
        return Decision(
            number, command, driven, others, loaded, now_ns, spent, math.nan if elapsed is None else elapsed
        )

    def shadow_problem(self, omegas: Sequence[object]) -> str | None:
        """Why these cannot be the shadow's ω; None when they can."""
        return _shadow_problem(omegas, self.omega.range)

    def require_swap(self, loaded: Loaded) -> None:
        """Whether :meth:`swap` would succeed, as long as ``omega.lock`` is held.

        :raises ContractError: where an ω in force is outside the bundle's range.
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
        """Sends the stop action and takes note of the cause. May be called from any thread."""
        news = self.supervisor.fault(cause)
        try:
            self.wire.stop()
        except Exception as error:
            cause = Cause(Kind.EXCEPTION, f"the stop action cannot be sent ({one_line(error)}) after {cause}")
            news = True
        self.statistics.fault(cause.kind.value)
        self._on_fault(cause, news)

    def clock_jumped(self, cause: Cause) -> None:
        """The clock jumped: inputs that arrived before cannot be told fresh from stale any more."""
        self.inputs.forget()
        self._clock.forget()
        self.stop(cause)

    def watch(self, largest_gap_s: float) -> None:
        """What the loop cannot see itself: that it hangs, or is not run. For another thread, once a period.

        :param largest_gap_s: between two periods; 0: any, as in a simulation that may pause.
        """
        now, under_way = self._steady(), self._under_way
        if under_way is not None:
            if now - under_way[0] > self._deadline_s and self._overdue != under_way:
                self._overdue = under_way
                self.stop(self._late(now - under_way[0], "is still not over after"))
        elif largest_gap_s > 0.0 and now - self._last_end > largest_gap_s:
            gap = now - self._last_end
            self.stop(Cause(Kind.STALLED, f"no control period for {gap:.3f} s, expected one every {self._period_s} s"))

    def _late(self, spent: float, verb: str) -> Cause:
        return Cause(Kind.DEADLINE, f"the control period {verb} {spent:.4f} s, expected at most {self._deadline_s} s")


def _shadow_problem(omegas: Sequence[object], limits: OmegaRange | None) -> str | None:
    problems = (omega_problem(value, limits) for value in omegas)
    return next((f"shadow_omegas: {problem}" for problem in problems if problem is not None), None)
