"""Stops training between two timesteps on Ctrl-C or SIGTERM."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from dipole_sb3.learning.callbacks import IterationCallback


class StopOnSignal:
    """Ends ``learn()`` after the timestep in which Ctrl-C (or SIGTERM) arrives, so that the run can be saved.

    A second Ctrl-C interrupts at once. Use it as a context manager around ``learn()``, in the main thread, with one
    :meth:`callback` for each model in training.
    """

    def __init__(self) -> None:
        self.stopped_by: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

    def callback(self) -> IterationCallback:
        """The callback that stops one model; each model needs its own."""
        return _StopBetweenTimesteps(self)

    def __enter__(self) -> StopOnSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        self.stopped_by = signal.Signals(number)
        signal.signal(signal.SIGINT, signal.default_int_handler)


class _StopBetweenTimesteps(IterationCallback):
    def __init__(self, signals: StopOnSignal) -> None:
        super().__init__()
        self._signals = signals

    def _on_iteration_end(self) -> bool:
        return self._signals.stopped_by is None
