"""Decides whether the robot may drive: a small state machine, informed by the control loop and its watchers."""

from __future__ import annotations

import threading
from enum import Enum

from dipole_policy.errors import Cause, Kind


class State(str, Enum):
    """States of the drive."""

    OFF = "off"
    """The node is not active."""
    WAITING = "waiting for the first inputs"
    DRIVING = "driving"
    STOPPED = "stopped"
    RECOVERING = "recovering"
    """The fault is over, but the inputs must stay fresh for a while before driving resumes."""


class StopRequest:
    """Whether somebody has asked for a stop that only a resume ends; outlives what is configured and cleaned up."""

    cause: Cause | None = None


class Supervisor:
    """Stops at once, and lets the robot drive again only after a time without a fault.

    Times are in seconds of a steady clock. Safe to call from any thread.

    :param recover_after_s: how long everything must be well before driving resumes; at least 0.
    :param automatic: whether driving resumes by itself; otherwise only :meth:`resume` ends a stop.
    :param request: a stop that was requested earlier still holds; None: none was.
    """

    def __init__(self, recover_after_s: float, automatic: bool, request: StopRequest | None = None) -> None:
        self._recover_after_s = recover_after_s
        self._automatic = automatic
        self._lock = threading.Lock()
        self._state = State.OFF
        self._cause: Cause | None = None
        self._well_since: float | None = None
        self._request = request or StopRequest()
        self._beneath: Cause | None = None

    @property
    def state(self) -> State:
        """The current state."""
        return self._state

    @property
    def cause(self) -> Cause | None:
        """The cause of the current stop; None while driving and while off."""
        return self._cause

    def start(self) -> None:
        """The node has become active: driving starts with the first complete set of inputs.

        A stop that was requested and not ended by :meth:`resume` still holds.
        """
        with self._lock:
            self._state = State.WAITING if self._request.cause is None else State.STOPPED
            self._cause, self._well_since = self._request.cause, None

    def off(self) -> None:
        """The node is no longer active."""
        with self._lock:
            self._state, self._cause, self._well_since = State.OFF, None, None

    def fault(self, cause: Cause) -> bool:
        """Stops; every further fault restarts the time without a fault.

        :return: whether this is new: the state or the kind of cause differs from before.
        """
        with self._lock:
            if self._state is State.OFF:
                return False
            news = self._cause is None or self._cause.kind is not cause.kind or self._state is State.RECOVERING
            self._well_since = None
            if self._request.cause is not None:
                # What is shown is why the robot will not drive: the request.
                self._beneath = cause
                return False
            self._cause = cause
            # A topic that has not published yet has not failed.
            if self._state is State.WAITING and cause.kind in (Kind.MISSING, Kind.STALE):
                return news
            self._state = State.STOPPED
            return news

    def request_stop(self, cause: Cause) -> None:
        """Stops until :meth:`resume`, whatever ``automatic`` says, and also if the node becomes active only later."""
        with self._lock:
            self._request.cause = cause
            if self._state is not State.OFF:
                self._state, self._cause = State.STOPPED, cause

    def unwell(self) -> None:
        """Something went wrong that is no fault: the time without a fault begins anew."""
        with self._lock:
            self._well_since = None

    def well(self, now: float) -> bool:
        """The inputs were complete and the policy answered in time.

        :return: whether this period's action may be sent.
        """
        with self._lock:
            if self._state is State.OFF:
                return False
            self._beneath = None
            if self._well_since is None:
                self._well_since = now
            if self._state is State.STOPPED and self._automatic and self._request.cause is None:
                self._state = State.RECOVERING
            over = self._state is State.RECOVERING and now - self._well_since >= self._recover_after_s
            if over or self._state is State.WAITING:
                self._state, self._cause = State.DRIVING, None
            return self._state is State.DRIVING

    def resume(self) -> str | None:
        """Ends a stop by command.

        :return: why this is not possible; None if driving resumes.
        """
        with self._lock:
            if self._state is State.OFF:
                if self._request.cause is None:
                    return "the node is not active"
                self._request.cause = None
                return None
            if self._state in (State.WAITING, State.DRIVING):
                return f"the node is {self._state.value}: there is nothing to resume"
            if self._well_since is None:
                return f"the cause is not over: {self._beneath or self._cause}"
            self._state, self._cause, self._request.cause = State.DRIVING, None, None
            return None
