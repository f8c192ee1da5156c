"""The only way to the actuators: after a stop, it sends nothing that was decided before the stop."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np

from dipole_policy.action import Command


class Wire:
    """Publishes commands and stops, one at a time. Safe to use from any thread.

    A command carries a ticket that was drawn when its observation was taken. Every stop invalidates the tickets drawn
    before it, so an inference that was running when the robot stopped cannot move it afterwards.

    :param publish: sends a command; may raise.
    :param on_stop: what a stop sends: ``zero``, ``hold`` (the last command again), ``none``.
    :param size: number of elements of a command.
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
        """The last command sent since opening, stops included. Before the first: zeros if they are the stop action,
        else None."""
        return self._last

    @property
    def sent(self) -> int:
        """Number of commands sent, stops included."""
        return self._sent

    def open(self) -> None:
        """From now on, commands are sent. Earlier commands are forgotten: the robot may have moved since."""
        with self._lock:
            self._open = True
            self._last = self._zeros if self._on_stop == "zero" else None

    def ticket(self) -> int:
        """Draws a ticket; call this before the observation is taken. See the class."""
        return self._ticket

    def is_valid(self, ticket: int) -> bool:
        """Whether there was no stop since the ticket was drawn."""
        return self._open and ticket == self._ticket

    def drive(self, command: Command, ticket: int) -> int | None:
        """Sends a command.

        :return: its number, counted from 1 over everything sent; None if there was a stop since the ticket was drawn.
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
                # Close even if the publisher failed: after a failed stop, no command may be sent.
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
