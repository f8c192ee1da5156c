"""Stops training between two updates when the user or the machine asks for it."""

from __future__ import annotations

import signal
from types import FrameType
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback


class StopOnSignal(BaseCallback):
    """Ends ``learn()`` after the update during which Ctrl-C (or SIGTERM) arrives: the model can be saved whole.

    A second Ctrl-C interrupts at once. Use as a context manager around ``learn()``, in the main thread.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stopped_by: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}

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

    def _on_step(self) -> bool:
        return self.stopped_by is None
