"""The only way to the actuators: after a stop, it sends nothing that was decided before the stop."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dipole_policy.action import Command


def _unknown() -> Command | None:
    return None


@dataclass(frozen=True, eq=False)
class Outlet:
    """One command topic.

    :param publish: sends its part of a command; may raise.
    :param part: which elements of the command are its own.
    :param on_stop: what a stop sends: ``zero``, ``hold``, ``none``; of plans ``empty`` or ``stand``, for which it
        publishes NaN.
    :param measured: gives where the robot is, shape of the part; None: not known now. Must not raise.
    :param hold_within: how far the robot may be found from where it is held until it is held where it is; None: any.
    """

    publish: Callable[[Command], None]
    part: slice
    on_stop: str
    measured: Callable[[], Command | None] = _unknown
    hold_within: Command | None = None

    def place(self, held: Command | None, last: Command) -> Command | None:
        """Where to hold the robot; None if nothing is known.

        :param held: where it is held already; None: the stop begins.
        :param last: the last command's part, NaN where there was none.
        """
        found = self.measured()
        if held is None:
            return found if found is not None else last if np.isfinite(last).all() else None
        if found is None or self.hold_within is None:
            return held
        # Each element by itself: one that sags must not creep down because another one is pushed.
        return np.where(abs(found - held) > self.hold_within, found, held)


class Wire:
    """Publishes commands and stops, one at a time. Safe to use from any thread.

    A command carries a ticket that was drawn when its observation was taken. Every stop invalidates the tickets drawn
    before it, so an inference that was running when the robot stopped cannot move it afterwards.

    :param outlets: the command topics; every command and every stop goes to all of them.
    :param size: number of elements of a command.
    """

    def __init__(self, outlets: Sequence[Outlet], size: int) -> None:
        self._outlets = tuple(outlets)
        self._size = size
        self._lock = threading.Lock()
        self._ticket = 0
        self._open = False
        self._is_driving = False
        self._held: list[Command | None] = []
        self._sent = 0
        self._last = self._before_the_first()

    def _before_the_first(self) -> Command:
        command = np.full(self._size, np.nan)
        for outlet in self._outlets:
            if outlet.on_stop == "zero":
                command[outlet.part] = 0.0
        self._held = [None] * len(self._outlets)
        return command

    @property
    def last(self) -> Command:
        """The last command sent since opening, stops included; NaN where nothing was sent, zero where zero stops."""
        return self._last

    @property
    def is_driving(self) -> bool:
        """Whether the last thing sent was a command, no stop: then the next one continues it."""
        return self._is_driving

    @property
    def sent(self) -> int:
        """Number of commands sent, stops included."""
        return self._sent

    def open(self) -> None:
        """From now on, commands are sent. Earlier commands are forgotten: the robot may have moved since."""
        with self._lock:
            self._open = True
            self._is_driving = False
            self._last = self._before_the_first()

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
            self._send(command, self._outlets)
            self._is_driving = True
            self._held = [None] * len(self._outlets)
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
        self._is_driving = False
        command, reached = self._last.copy(), []
        for index, outlet in enumerate(self._outlets):
            if outlet.on_stop == "zero":
                command[outlet.part] = 0.0
            elif outlet.on_stop == "hold":
                place = self._held[index] = outlet.place(self._held[index], self._last[outlet.part])
                if place is None:
                    continue
                command[outlet.part] = place
            elif outlet.on_stop in ("empty", "stand"):
                command[outlet.part] = np.nan
            else:
                continue
            reached.append(outlet)
        if reached:
            self._send(command, reached)

    def _send(self, command: Command, outlets: Sequence[Outlet]) -> None:
        """To all of them, also if one fails; then its error is raised."""
        failed: Exception | None = None
        for outlet in outlets:
            try:
                outlet.publish(command)
            except Exception as error:
                failed = failed or error
        if failed is not None:
            raise failed
        self._last = command
        self._sent += 1
