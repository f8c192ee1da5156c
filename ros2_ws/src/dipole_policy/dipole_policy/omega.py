"""The greediness ω under the operator's hand: a range, a pace, and a record of every change, accepted or not."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

from dipole_runtime.manifest import OmegaRange

from dipole_policy.errors import shown


@dataclass(frozen=True)
class OmegaRecord:
    """A change of ω that was asked for.

    :param number: counts all records, from 1.
    :param time_ns: the node's clock.
    :param source: who asked: the parameter, the topic, configuring, a reload.
    :param old: target before.
    :param new: what was asked for; NaN when it was no number.
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
    """Holds the target and moves the value that drives towards it. May be used from any thread.

    :param omega: the bundle's range and default.
    :param slew_per_s: largest change per second; 0: at once.
    :param now_ns: the node's clock.
    :param record: gets every record, one at a time and in order.
    :param numbers: of the records; None: from 1.
    """

    def __init__(
        self,
        omega: OmegaRange,
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
        self._target = omega.default
        self._value = omega.default
        self._numbers = count(1) if numbers is None else numbers

    @property
    def target(self) -> float:
        """What was last accepted."""
        return self._target

    @property
    def range(self) -> OmegaRange:
        """The driving bundle's."""
        return self._range

    def problem(self, value: object, omega: OmegaRange | None = None) -> str | None:
        """Why a value cannot be the target; None when it can.

        :param omega: another bundle's range than the driving one's.
        """
        limits = omega or self._range
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            return f"omega is {shown(value)}, expected a finite number"
        if not limits.low <= value <= limits.high:
            return f"omega is {value}, expected {limits.low} to {limits.high}, the bundle's range"
        return None

    def begin(self, value: float, source: str) -> str | None:
        """As :meth:`request`, taking effect at once whatever the slew limit: nothing has been driven yet."""
        problem = self.request(value, source)
        self._value = self._target
        return problem

    def request(self, value: object, source: str, refused: str | None = None) -> str | None:
        """Asks for a new target, and records that.

        :param refused: why somebody else has refused it already.
        :return: why it was rejected; None when it was accepted.
        """
        with self.lock:
            problem = refused or self.problem(value)
            old = self._target
            new = float(value) if isinstance(value, int | float) else math.nan
            if problem is None:
                self._target = new
                if self.slew_per_s <= 0.0:
                    self._value = new
            reason = problem or "accepted"
            self._record(OmegaRecord(next(self._numbers), self._now_ns(), source, old, new, problem is None, reason))
            return problem

    def range_problem(self, omega: OmegaRange) -> str | None:
        """Why a bundle of this range cannot take over at the ω in force; None when it can."""
        return self.problem(self._target, omega) or self.problem(self._value, omega)

    def change_range(self, omega: OmegaRange) -> None:
        """Another bundle is to drive; to be called with the lock held until it does."""
        self._range = omega

    def step(self, elapsed_s: float) -> float:
        """The value for the next inference.

        :param elapsed_s: since the last one.
        """
        with self.lock:
            if self.slew_per_s <= 0.0:
                self._value = self._target
            else:
                largest = self.slew_per_s * max(elapsed_s, 0.0)
                self._value += min(max(self._target - self._value, -largest), largest)
            return self._value
