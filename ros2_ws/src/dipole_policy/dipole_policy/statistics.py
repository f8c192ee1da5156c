"""What the node knows of its own timing, in bounded memory."""

from __future__ import annotations

import threading
from collections import Counter, deque
from dataclasses import dataclass

import numpy as np

WINDOW = 1000
"""Decisions that the statistics look back on."""


@dataclass(frozen=True)
class Summary:
    """Of the values in the window; all zero when there are none."""

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
    """Filled by the control loop, read by diagnostics. Times in seconds.

    :param period_s: between two periods, as intended.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._lock = threading.Lock()
        self._latencies: deque[float] = deque(maxlen=WINDOW)
        self._jitters: deque[float] = deque(maxlen=WINDOW)
        self._last_start: float | None = None
        self._faults: Counter[str] = Counter()

    def started(self, now: float) -> float | None:
        """A control period began.

        :return: seconds since the one before; None for the first.
        """
        with self._lock:
            elapsed = None if self._last_start is None else now - self._last_start
            self._last_start = now
            if elapsed is not None:
                self._jitters.append(abs(elapsed - self._period_s))
            return elapsed

    def paused(self) -> None:
        """The loop stands still on purpose: the pause is no jitter."""
        with self._lock:
            self._last_start = None

    def inferred(self, latency_s: float) -> None:
        """The policy answered."""
        with self._lock:
            self._latencies.append(latency_s)

    def fault(self, kind: str) -> None:
        """Counts what stopped the robot, or kept it stopped."""
        with self._lock:
            self._faults[kind] += 1

    def latency(self) -> Summary:
        """Of the policy's answers."""
        with self._lock:
            return summary(self._latencies)

    def jitter(self) -> Summary:
        """Of the control period: how far it was from what was intended."""
        with self._lock:
            return summary(self._jitters)

    def faults(self) -> dict[str, int]:
        """Kind of cause → how often, since configuring."""
        with self._lock:
            return dict(self._faults)
