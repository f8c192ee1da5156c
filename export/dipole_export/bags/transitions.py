"""Finds the control periods of a recording and converts them to transitions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from dipole_policy.errors import Cause, ContractError, InputError, Kind, one_line
from dipole_policy.layout import ObservationLayout, PictureLayout
from dipole_policy.observation import Inputs
from dipole_policy.topic_reader import Received
from dipole_runtime.manifest import ObservationSpec
from numpy.typing import NDArray

from dipole_export.bags.commands import Commands
from dipole_export.bags.reading import Event
from dipole_export.bags.rewards import Reward, Signal, Step
from dipole_export.bags.rows import Observation, Rows

NO_COMMAND = "no command"
TERMINAL = "terminal"
SET_BACK = "set back"
END = "end of the recording"

Vector = NDArray[np.float32]


class View(NamedTuple):
    """What the node would have known at one moment."""

    time_ns: int
    inputs: Mapping[str, Received]
    reward: Received | None


class Tick(NamedTuple):
    """The beginning of a step."""

    time_ns: int
    observation: Observation
    action: Vector


class Sources(NamedTuple):
    """Where everything of a transition comes from; see :class:`Transitions`.

    :param spec: of the observation without its pictures.
    """

    inputs: Inputs
    layout: ObservationLayout | PictureLayout
    spec: ObservationSpec
    commands: Commands
    reward: Reward
    terminal: Signal | None
    set_back: Signal | None


def numbers_of(observation: Observation, spec: ObservationSpec) -> Vector:
    """Everything of an observation but its pictures, float32 of shape [size]."""
    if not spec.size:
        return np.zeros(0, np.float32)
    if not isinstance(observation, Mapping):
        return observation
    return np.concatenate([observation[str(part.key)].reshape(-1) for part in spec.parts])


class Transitions:
    """Reads a recording once, message by message.

    A recording shows the node's control periods by its commands, because each period ends with one. A step begins at a
    command, with the observation of that moment. It ends at the command nearest to one period later (at most half a
    period away), and the next step begins there. Commands in between, from a faster source, are left out.

    If no command comes, the last command counts again, unless it is older than ``hold_ns``. Otherwise the episode ends
    there as by a time limit, after a last step of one period. It also ends if an observation, a command or a reward is
    not available; the step that needs it is left out.

    The leading topic's commands are meant here; see :class:`Commands`. Those of other topics are read ahead of their
    time, by :attr:`Commands.ahead_ns`.

    :param rows: where they go.
    :param sources: the sources of observations, commands, rewards and episode ends.
    :param period_ns: the contract's control period in nanoseconds.
    :param hold_ns: in nanoseconds; 0: commands do not count again.
    """

    def __init__(self, rows: Rows, sources: Sources, period_ns: int, hold_ns: int = 0) -> None:
        self.rows = rows
        self.ends: Counter[str] = Counter()
        """Reason for the end of an episode → number of episodes."""
        self.left_out: Counter[str] = Counter()
        """Reason why a command outside an episode could not begin one → number of commands."""
        self.first_problem: Cause | None = None
        self.duration_ns = 0
        """Total duration of all steps."""
        self._sources = sources
        self._period_ns, self._half_ns, self._hold_ns = period_ns, period_ns // 2, hold_ns
        self._now_ns: int | None = None
        self._tick: Tick | None = None
        self._early: tuple[View, Any] | None = None
        self._at_due: View | None = None
        self._newest_command: Received | None = None
        self._reward: Received | None = None
        self._terminal_at: int | None = None
        self._is_terminal = False
        self._set_back_at: int | None = None

    def read(self, events: Iterable[Event]) -> None:
        """Reads all events."""
        for event in events:
            self._hear(event)
        if self._early is not None:
            self._step(*self._early)
        self._end(END)

    def _hear(self, event: Event) -> None:
        now, topic, message = event.time_ns, event.topic, event.message
        sources = self._sources
        if self._now_ns is not None and now < self._now_ns:
            self._end(Kind.CLOCK.value)
            self._forget(now)
            sources.commands.forget()
        self._now_ns = now
        self._advance(now)
        if topic in sources.inputs.topics:
            sources.inputs.receive(topic, message, now)
        if topic == sources.reward.topic:
            self._reward = Received(message, now)
        if sources.terminal is not None and topic == sources.terminal.topic:
            self._hear_terminal(sources.terminal, message, now)
        if sources.set_back is not None and topic == sources.set_back.topic and sources.set_back.is_on(message):
            self._set_back_at = now
            # Earlier inputs do not show where the robot is now.
            self._forget(now)
            sources.commands.forget(now)
        if topic == sources.commands.lead:
            self._hear_command(message, now)
        elif topic in sources.commands.topics:
            sources.commands.hear(topic, message, now + sources.commands.ahead_ns[topic])

    def _hear_terminal(self, terminal: Signal, message: Any, now: int) -> None:
        is_on = terminal.is_on(message)
        self._is_terminal = is_on and terminal.is_level
        if is_on and self._tick is not None and self._terminal_at is None:
            self._terminal_at = now

    def _forget(self, now: int) -> None:
        self._sources.inputs.forget(now)
        self._reward = self._newest_command = None

    def _view(self, time_ns: int) -> View:
        return View(time_ns, self._sources.inputs.snapshot(), self._reward)

    # ---- where steps begin and end

    def _advance(self, now: int) -> None:
        """Ends the steps for which no command can come any more; called before the current event is processed."""
        while self._tick is not None:
            due = self._tick.time_ns + self._period_ns
            if now <= due:
                return
            if self._at_due is None:
                self._at_due = self._view(due)
            if now <= due + self._half_ns:
                return
            newest = self._newest_command
            if self._early is not None:
                self._step(*self._early)
            elif newest is not None and due - newest.received_ns <= self._hold_ns:
                self._step(self._at_due, newest.message)
            else:
                self._step(self._at_due, None)

    def _hear_command(self, message: Any, now: int) -> None:
        self._newest_command = Received(message, now)
        while self._tick is not None:
            due = self._tick.time_ns + self._period_ns
            if now < due - self._half_ns:
                return
            if now < due:
                self._early = (self._view(now), message)
                return
            if self._early is None or now - due < due - self._early[0].time_ns:
                break
            self._step(*self._early)
        self._step(self._view(now), message)

    def _step(self, view: View, command: Any) -> None:
        """Ends the current step, if there is one, and begins the next, if there is a command."""
        tick, self._tick, self._early, self._at_due = self._tick, None, None, None
        layout = self._sources.layout
        try:
            observation, problem = layout.arrange(layout.build(view.inputs, view.time_ns)), None
        except InputError as error:
            observation, problem = None, error.cause
        reason = None if tick is None else self._close(tick, view, observation, problem, command is None)
        if command is not None and not self._is_over(view):
            try:
                if problem is not None:
                    raise InputError(problem)
                assert observation is not None
                self._tick = Tick(view.time_ns, observation, self._sources.commands.read(command, view.time_ns))
            except InputError as error:
                reason = self._begin_failed(error.cause, reason, tick)
        elif command is None:
            reason = reason or NO_COMMAND
        if tick is not None and reason is not None:
            self.rows.end_episode()
            self.ends[reason] += 1
        self._take_back_events(view)

    def _begin_failed(self, cause: Cause, reason: str | None, tick: Tick | None) -> str:
        self.first_problem = self.first_problem or cause
        if tick is None:
            self.left_out[cause.kind.value] += 1
        return reason or cause.kind.value

    def _close(
        self, tick: Tick, view: View, observation: Observation | None, problem: Cause | None, is_last: bool
    ) -> str | None:
        """Writes the step, if it is complete.

        :return: why the episode ends; None if it continues.
        """
        if self._set_back_at is not None and self._set_back_at <= view.time_ns:
            return SET_BACK
        if observation is None:
            assert problem is not None
            self.first_problem = self.first_problem or problem
            return problem.kind.value
        before, after = (numbers_of(one, self._sources.spec) for one in (tick.observation, observation))
        step = Step(before, tick.action, after, view.reward, view.time_ns)
        try:
            reward = self._reward_of(step)
        except InputError as error:
            self.first_problem = self.first_problem or error.cause
            return f"reward: {error.cause.kind.value}"
        # If no step follows, a terminal message up to half a period after the end still belongs to this step.
        is_terminal = self._terminal_at is not None and (is_last or self._terminal_at <= view.time_ns)
        self.rows.append(tick.observation, tick.action, reward, observation, is_terminal)
        self.duration_ns += view.time_ns - tick.time_ns
        return TERMINAL if is_terminal else None

    def _reward_of(self, step: Step) -> float:
        try:
            return self._sources.reward(step)
        except (ContractError, IndexError, TypeError) as error:
            raise InputError(Cause(Kind.WRONG_SIZE, f"the reward cannot be read ({one_line(error)})")) from error

    def _is_over(self, view: View) -> bool:
        """Whether the robot is in a terminal state, in which no episode can begin."""
        is_later = self._terminal_at is not None and self._terminal_at > view.time_ns
        return self._is_terminal and not is_later

    def _take_back_events(self, view: View) -> None:
        """Forgets terminal and reset messages from before the new step, because they must not end it."""
        if self._tick is None or (self._terminal_at is not None and self._terminal_at <= view.time_ns):
            self._terminal_at = None
        if self._tick is None or (self._set_back_at is not None and self._set_back_at <= view.time_ns):
            self._set_back_at = None

    def _end(self, reason: str) -> None:
        """Ends the episode; the unfinished step is left out."""
        if self._tick is not None:
            self.rows.end_episode()
            self.ends[reason] += 1
        self._tick = self._early = self._at_due = self._terminal_at = self._set_back_at = None
