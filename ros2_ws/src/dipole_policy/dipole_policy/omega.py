"""The greediness ω under the operator's control: range, rate limit, and a record of every accepted or rejected change.

A deterministic policy has no ω: while one drives, there is no range and no value, and requests are rejected with a
reason.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from dipole_runtime.manifest import OmegaRange

from dipole_policy.errors import shown

NO_OMEGA = "the loaded policy is deterministic and has no greediness to turn"


def omega_problem(value: object, limits: OmegaRange | None) -> str | None:
    """Why a value cannot be a policy's ω; None if it can.

    :param limits: the policy's range; None: it has no ω.
    """
    if limits is None:
        return f"omega is {shown(value)}, expected none: {NO_OMEGA}"
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return f"omega is {shown(value)}, expected a finite number"
    if not limits.low <= value <= limits.high:
        return f"omega is {value}, expected {limits.low} to {limits.high}, the bundle's range"
    return None


@dataclass(frozen=True)
class OmegaRecord:
    """A change of ω that was requested, or that came with a bundle.

    :param number: counts all records, from 1.
    :param time_ns: time of the node's clock.
    :param source: where the change came from: the parameter, the topic, configuring, a reload.
    :param old: the target before; NaN if there was none.
    :param new: the requested value; NaN if it was not a number, or if the policy no longer has an ω.
    :param reason: why it was rejected, or ``accepted``.
    """

    number: int
    time_ns: int
    source: str
    old: float
    new: float
    accepted: bool
    reason: str


class OmegaControl:
    """Holds the target, and moves the ω in force towards it. Safe to use from any thread.

    :param omega: the bundle's range and default; None: its policy has no ω.
    :param slew_per_s: largest change per second; 0: at once.
    :param now_ns: returns the time of the node's clock.
    :param record: called with every record, one at a time and in order.
    :param numbers: the numbers of the records; None: from 1.
    """

    def __init__(
        self,
        omega: OmegaRange | None,
        slew_per_s: float,
        now_ns: Callable[[], int],
        record: Callable[[OmegaRecord], None],
        numbers: Iterator[int] | None = None,
    ) -> None:
        self._range = omega
        self.slew_per_s = slew_per_s
        self._now_ns = now_ns
        self._record = record
        self.lock = threading.RLock()
        """Held by whoever needs the value and the bundle to belong together."""
        self._target = self._value = None if omega is None else omega.default
        self._numbers = count(1) if numbers is None else numbers

    @property
    def target(self) -> float | None:
        """The last accepted value; None: the driving policy has no ω."""
        return self._target

    @property
    def range(self) -> OmegaRange | None:
        """The driving bundle's range; None: its policy has no ω."""
        return self._range

    def problem(self, value: object) -> str | None:
        """Why a value cannot be the target; None if it can."""
        return omega_problem(value, self._range)

    def begin(self, value: float, source: str) -> str | None:
        """As :meth:`request`, but without the slew limit: nothing has been driven yet."""
        problem = self.request(value, source)
        self._value = self._target
        return problem

    def request(self, value: object, source: str, refused: str | None = None) -> str | None:
        """Requests a new target and records the request.

        :param refused: why another check has already refused it; None: no check has.
        :return: why it was rejected; None if it was accepted.
        """
        with self.lock:
            problem = refused or self.problem(value)
            old = self._target
            new = float(value) if isinstance(value, int | float) else math.nan
            if problem is None:
                self._target = new
                if self.slew_per_s <= 0.0:
                    self._value = new
            self._tell(source, old, new, problem)
            return problem

    def range_problem(self, omega: OmegaRange | None) -> str | None:
        """Why a bundle with this range cannot take over at the ω in force; None if it can.

        If either policy has no ω, no value is carried over.
        """
        if omega is None or self._range is None:
            return None
        return omega_problem(self._target, omega) or omega_problem(self._value, omega)

    def change_range(self, omega: OmegaRange | None) -> None:
        """Sets the range of the next bundle; call it with the lock held until the bundle drives.

        A pair that follows a deterministic policy begins at its default; a deterministic policy that follows a pair
        ends ω. The audit records both.
        """
        had_none, self._range = self._range is None, omega
        if had_none == (omega is None):
            return
        old = self._target
        self._target = self._value = None if omega is None else omega.default
        self._tell("reload", old, self._target, None)

    def _tell(self, source: str, old: float | None, new: float | None, problem: str | None) -> None:
        before, after = (math.nan if value is None else value for value in (old, new))
        reason = problem or "accepted"
        self._record(OmegaRecord(next(self._numbers), self._now_ns(), source, before, after, problem is None, reason))

    def step(self, elapsed_s: float) -> float | None:
        """The value for the next inference; None: the driving policy has no ω.

        :param elapsed_s: time since the previous inference.
        """
        with self.lock:
            if self._target is None or self._value is None:
                return None
            if self.slew_per_s <= 0.0:
                self._value = self._target
            else:
                largest = self.slew_per_s * max(elapsed_s, 0.0)
                left = self._target - self._value
                # Not value + left: rounded, that may lie beyond the range.
                self._value = self._target if abs(left) <= largest else self._value + math.copysign(largest, left)
            return self._value
