"""The node's statistics of its own timing, in bounded memory."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

WINDOW = 1000
"""Number of decisions that the statistics cover."""


@dataclass(frozen=True)
class Summary:
    """Statistics of the values in the window; all zero if there are none."""

    mean: float
    p99: float
    max: float
    count: int


def summary(values: deque[float]) -> Summary:
    """Mean, 99th percentile and largest."""
    if not values:
        return Summary(0.0, 0.0, 0.0, 0)
    array = np.fromiter(values, np.float64)
    return Summary(float(array.mean()), float(np.percentile(array, 99)), float(array.max()), len(array))


class Statistics:
    """Written by the control loop, read by diagnostics. Times in seconds.

    :param period_s: intended time between two periods.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._lock = threading.Lock()
        self._latencies: deque[float] = deque(maxlen=WINDOW)
        self._jitters: deque[float] = deque(maxlen=WINDOW)
        self._last_start: float | None = None
        self._faults: Counter[str] = Counter()

    def started(self, now: float) -> float | None:
        """A control period has begun.

        :return: seconds since the start of the previous one; None for the first.
        """
        with self._lock:
            elapsed = None if self._last_start is None else now - self._last_start
            self._last_start = now
            if elapsed is not None:
                self._jitters.append(abs(elapsed - self._period_s))
            return elapsed

    def paused(self) -> None:
        """The loop is stopped on purpose, so the pause does not count as jitter."""
        with self._lock:
            self._last_start = None

    def inferred(self, latency_s: float) -> None:
        """The policy has answered, after ``latency_s`` seconds."""
        with self._lock:
            self._latencies.append(latency_s)

    def fault(self, kind: str) -> None:
        """Counts a fault that stopped the robot, or kept it stopped."""
        with self._lock:
            self._faults[kind] += 1

    def latency(self) -> Summary:
        """Latency of the policy's answers."""
        with self._lock:
            return summary(self._latencies)

    def jitter(self) -> Summary:
        """Jitter of the control period: how far it was from the intended period."""
        with self._lock:
            return summary(self._jitters)

    def faults(self) -> dict[str, int]:
        """Kind of cause → number of times, since configuring."""
        with self._lock:
            return dict(self._faults)
