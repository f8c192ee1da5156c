"""The one way to the actuators: nothing passes it after a stop but what was decided after it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from dipole_policy.action import Command


class Wire:
    """Publishes commands and stops, one at a time. May be used from any thread.

    A command carries the ticket that was drawn when its observation was taken. Every stop makes the tickets drawn
    before it worthless, so that an inference which was under way when the robot was stopped cannot move it afterwards.

    :param publish: sends a command; may raise.
    :param on_stop: what a stop sends: ``zero``, ``hold`` (the last command again), ``none``.
    :param size: elements of a command.
    """

    def __init__(self, publish: Callable[[Command], None], on_stop: str, size: int) -> None:
        self._publish = publish
        self._on_stop = on_stop
        self._zeros = np.zeros(size)
        self._lock = threading.Lock()
        self._ticket = 0
        self._open = False
        self._last: Command | None = None
        self._sent = 0

    @property
    def last(self) -> Command | None:
        """The last command that went out since opening, stops included; before that zeros if they are the stop action,
        and None otherwise."""
        return self._last

    @property
    def sent(self) -> int:
        """Commands that went out, stops included."""
        return self._sent

    def open(self) -> None:
        """From now on commands pass. Those of an earlier opening are history: the robot may have moved since."""
        with self._lock:
            self._open = True
            self._last = self._zeros if self._on_stop == "zero" else None

    def ticket(self) -> int:
        """To be drawn before the observation is taken; see the class."""
        return self._ticket

    def is_valid(self, ticket: int) -> bool:
        """Whether no stop came since the ticket was drawn."""
        return self._open and ticket == self._ticket

    def drive(self, command: Command, ticket: int) -> int | None:
        """Sends a command.

        :return: its number, counted from 1 over everything sent; None when a stop came since the ticket was drawn.
        """
        with self._lock:
            if not self.is_valid(ticket):
                return None
            self._send(command)
            return self._sent

    def stop(self) -> None:
        """Sends the stop action; may be repeated."""
        with self._lock:
            self._ticket += 1
            if self._open:
                self._send_stop()

    def close(self) -> bool:
        """Sends the stop action as the last command, once.

        :return: whether it was open before.
        """
        with self._lock:
            self._ticket += 1
            was_open = self._open
            try:
                if was_open:
                    self._send_stop()
            finally:
                # Closed also when the publisher failed: what comes after a failed stop must not be a drive.
                self._open = False
            return was_open

    def _send_stop(self) -> None:
        if self._on_stop == "zero":
            self._send(self._zeros)
        elif self._on_stop == "hold" and self._last is not None:
            self._send(self._last)

    def _send(self, command: Command) -> None:
        self._publish(command)
        self._last = command
        self._sent += 1
