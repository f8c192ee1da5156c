"""Stops training between two timesteps: on Ctrl-C, and when a scheduler wants the machine back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from dipole_sb3.learning.callbacks import IterationCallback

STOPPED = 75
"""Exit status of a run that a scheduler's signal has stopped and that can go on: "temporary failure" in sysexits.h."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
"""Ctrl-C; what Kubernetes, Slurm and others send before they kill; what Slurm sends before that, if it is asked to."""


def exit_status(stopped_by: signal.Signals) -> int:
    """The status with which a stopped training ends: 130 after Ctrl-C, as shells have it, else :data:`STOPPED`."""
    return 128 + stopped_by if stopped_by == signal.SIGINT else STOPPED


@contextmanager
def ends_with_status() -> Iterator[None]:
    """SIGTERM and SIGUSR1 end this process with :data:`STOPPED` also where nothing learns: what it has written stays.

    Use it in the main thread, around everything that :class:`StopOnSignal` is not around: loading and evaluation.
    """

    def end(number: int, frame: FrameType | None) -> None:
        print(f"Stopped by {signal.Signals(number).name}; the run can go on", flush=True)
        raise SystemExit(STOPPED)

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class StopOnSignal:
    """Ends ``learn()`` after the timestep in which SIGINT, SIGTERM or SIGUSR1 arrives, so that the run can be saved.

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
        for number in _SIGNALS:
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
