"""The contract (YAML): the topics that make up the observation, and the topics that take the action."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from dipole_policy import consumers
from dipole_policy.camera_options import CameraOptions, camera_options
from dipole_policy.contract_table import Table, parsed
from dipole_policy.driven_types import FRAMES, HISTORY, IMAGES, ODOMETRY, PLAN_STOPS, POSE
from dipole_policy.errors import ContractError, one_line, shown
from dipole_policy.fields import Path
from dipole_policy.tolerance import Tolerance, tolerated
from dipole_policy.topic_qos import COMMAND, INPUT, TopicQoS, input_qos, topic_qos

MAX_CONTRACT_SIZE = 1 << 18
"""In bytes."""
FUNCTIONS = ("cos", "sin", "yaw", HISTORY)
"""Functions of a field: of each element (cos, sin), of a quaternion x, y, z, w (yaw), or of odometry (history)."""
ON_STOP = ("zero", "hold", "none")
STAMPS = ("header", "received")


@dataclass(frozen=True)
class ObservationEntry:
    """One or several fields of one topic, or the picture of a camera.

    :param fields: paths of the fields, read in this order; none: a picture.
    :param names: select and order the elements of the fields by the message's own ``name`` array (JointState).
    :param size: number of elements in all; required if neither the type nor ``names`` defines it.
    :param key: the entry of a Dict observation to which these elements belong.
    :param function: one of :data:`FUNCTIONS`.
    :param elements: the names that the bundle must have for these elements; checked if given.
    :param max_age_s: older values stop the robot; positive.
    :param stamp: whether the age counts from the stamp in the message's header or from its arrival; None: from the
        stamp if there is one, but the age is never less than that since arrival.
    :param qos: of the subscription.
    :param camera: what becomes of a picture; None: it is none.
    """

    topic: str
    type: str
    fields: tuple[Path, ...]
    max_age_s: float
    names: tuple[str, ...] = ()
    size: int | None = None
    key: str | None = None
    function: str | None = None
    elements: tuple[str, ...] = ()
    stamp: str | None = None
    qos: TopicQoS = INPUT
    camera: CameraOptions | None = None


@dataclass(frozen=True)
class ActionEntry:
    """A topic and its fields that take the action, or a part of it.

    :param fields: paths of the fields; they take the action's elements in this order. An array of variable length takes
        all elements that the other fields leave.
    :param names: written to the message's own ``joint_names`` or ``name`` array.
    :param size: number of elements; required for one of several actions if neither the type nor ``names`` defines it.
    :param constants: further fields and their values.
    :param on_stop: what is sent when the robot must stop: zeros, where the stop found the robot, or nothing; of a plan
        none of poses (``empty``), or the last ones without speed (``stand``).
    :param frame: of a plan's poses: that of the odometry, or the car's own as it was then; None: it takes no plan.
    :param max_rate: largest change of each element per second, in its unit; None: no limit.
    :param start_from: where the robot is, in the command's unit: from there the first command after an activation or a
        stop is limited, and there ``hold`` holds it; None: not measured.
    :param hold_within: how far each element may be found from the place that is held before that place is held where
        the robot is found; None: it is never left.
    :param elements: the names that the bundle must have for the action's elements; checked if given.
    :param qos: of the publisher.
    """

    topic: str
    type: str
    fields: tuple[Path, ...]
    on_stop: Literal["zero", "hold", "none", "empty", "stand"]
    names: tuple[str, ...] = ()
    size: int | None = None
    constants: tuple[tuple[Path, Any], ...] = ()
    max_rate: tuple[float, ...] | None = None
    start_from: ObservationEntry | None = None
    hold_within: tuple[float, ...] | None = None
    elements: tuple[str, ...] = ()
    qos: TopicQoS = COMMAND
    frame: Literal["odometry", "base"] | None = None


@dataclass(frozen=True)
class Contract:
    """A robot, as the policy sees it.

    :param rate_hz: commands per second, 0.1 to 1,000.
    :param deadline_s: longest time from the start of a control period to its command; at most 10 s, by default one
        period.
    :param deadline_misses: the missed deadlines that are tolerated; by default as many as pass in 0.05 s, in a second.
    :param actions: at least one; the action's elements go to them in this order.
    :param where: the file's name, for error messages.
    """

    rate_hz: float
    deadline_s: float
    deadline_misses: Tolerance
    observation: tuple[ObservationEntry, ...]
    actions: tuple[ActionEntry, ...]
    where: str

    @property
    def period_s(self) -> float:
        """Seconds between commands."""
        return 1.0 / self.rate_hz

    @property
    def inputs(self) -> tuple[ObservationEntry, ...]:
        """Everything that is listened to: the observation, and where the robot is measured to start from."""
        starts = tuple(entry.start_from for entry in self.actions if entry.start_from is not None)
        return (*self.observation, *starts)

    def with_topics(self, full: Callable[[str], str]) -> Contract:
        """The same with other topic names, such as resolved ones.

        :raises ContractError: topics that must differ no longer do, or entries of one topic do not agree.
        """

        def renamed(entry: Any) -> Any:
            start = {}
            if getattr(entry, "start_from", None) is not None:
                start = {"start_from": renamed(entry.start_from)}
            return replace(entry, topic=full(entry.topic), **start)

        observation, actions = (tuple(map(renamed, entries)) for entries in (self.observation, self.actions))
        found = replace(self, observation=observation, actions=actions)
        try:
            # Two names of the file may come to one topic.
            _require_agreement(found)
        except ContractError as error:
            raise ContractError(f"contract {self.where}: with resolved names, {error}") from error
        return found

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Contract:
        """Reads a file.

        :raises ContractError: the file cannot be read or is not a contract.
        """
        where = os.fspath(path)
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_CONTRACT_SIZE + 1)
        except (OSError, ValueError) as error:
            raise ContractError(f"contract {where} cannot be read ({one_line(error)})") from error
        return cls.from_bytes(data, where)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Contract:
        """Parses a contract and checks everything that needs neither a bundle nor ROS.

        :param data: UTF-8.
        :param where: the file's name, for error messages.
        :raises ContractError: naming the place, what was found and what was expected.
        """
        try:
            if len(data) > MAX_CONTRACT_SIZE:
                raise ContractError(f"has more than the {MAX_CONTRACT_SIZE} bytes expected at most")
            return cls._from_value(parsed(data), where)
        except ContractError as error:
            raise ContractError(f"contract {where}: {error}") from error.__cause__

    @classmethod
    def _from_value(cls, value: Any, where: str) -> Contract:
        table = Table(value, "the contract")
        rate = table.number("rate_hz", 0.1, 1000.0)
        deadline = table.number("deadline_s", 1e-4, 10.0, 1.0 / rate)
        tolerance = tolerated(table, rate, deadline)
        entries = table.take("observation")
        if not isinstance(entries, list) or not entries:
            raise ContractError(f"observation is {shown(entries)}, expected a list of at least one entry")
        observation = tuple(_observation(entry, f"observation[{index}]") for index, entry in enumerate(entries))
        given = table.take("action")
        if isinstance(given, list) and not given:
            raise ContractError("action is an empty list, expected one action or a list of at least one")
        several = list(enumerate(given)) if isinstance(given, list) else [(None, given)]
        heard = {entry.topic: entry for entry in reversed(observation)}
        actions = tuple(
            _action(entry, "action" if index is None else f"action[{index}]", heard) for index, entry in several
        )
        table.require_empty()
        contract = cls(rate, deadline, tolerance, observation, actions, where)
        _require_agreement(contract)
        for where_, entry in contract.placed_actions():
            consumers.require(where_, entry, contract.period_s)
        return contract

    def placed_actions(self) -> list[tuple[str, ActionEntry]]:
        """Each action with its place in the file."""
        if len(self.actions) == 1:
            return [("action", self.actions[0])]
        return [(f"action[{index}]", entry) for index, entry in enumerate(self.actions)]


def _observation(value: Any, where: str) -> ObservationEntry:
    table = Table(value, where)
    topic, kind = table.topic(), table.type()
    function = table.choice("function", FUNCTIONS, None)
    if kind in IMAGES or function == HISTORY:
        return _driven(table, where, topic, kind, function)
    names = table.texts("names")
    entry = ObservationEntry(
        topic=topic,
        type=kind,
        fields=table.fields(),
        max_age_s=table.number("max_age_s", 1e-3, 3600.0),
        names=names,
        size=table.whole("size", 1, 65536, None),
        key=table.text("key", None),
        function=function,
        elements=table.texts("elements"),
        stamp=table.choice("stamp", STAMPS, None),
        qos=topic_qos(table, input_qos(kind, names)),
    )
    table.require_empty()
    _require_one_size(where, entry)
    return entry


def _driven(table: Table, where: str, topic: str, kind: str, function: str | None) -> ObservationEntry:
    """A picture or a history: what is read of their messages is known."""
    if function == HISTORY and kind != ODOMETRY:
        raise ContractError(f"{where}.function is history of {kind}, expected {ODOMETRY}")
    is_camera = kind in IMAGES
    if is_camera and function is not None:
        raise ContractError(f"{where}.function is {function}, expected none: {topic} gives pictures")
    entry = ObservationEntry(
        topic=topic,
        type=kind,
        fields=() if is_camera else POSE,
        max_age_s=table.number("max_age_s", 1e-3, 3600.0),
        key=table.text("key", None) if is_camera else table.text("key"),
        function=function,
        elements=table.texts("elements"),
        stamp=table.choice("stamp", STAMPS, None),
        qos=topic_qos(table, input_qos(kind, ())),
        camera=camera_options(table, where) if is_camera else None,
    )
    table.require_empty()
    return entry


def _require_one_size(where: str, entry: ObservationEntry | ActionEntry) -> None:
    if entry.names and entry.size is not None:
        raise ContractError(f"{where} has both names and size, expected one of them: names say the size")


def _action(value: Any, where: str, heard: Mapping[str, ObservationEntry]) -> ActionEntry:
    table = Table(value, where)
    topic, kind = table.topic(), table.type()
    if kind in PLAN_STOPS:
        return _plan(table, topic, kind)
    start = table.take("start_from", None)
    entry = ActionEntry(
        topic=topic,
        type=kind,
        fields=table.fields(),
        on_stop=table.choice("on_stop", ON_STOP),
        names=table.texts("names"),
        size=table.whole("size", 1, 65536, None),
        constants=_constants(table, where),
        max_rate=table.positives("max_rate"),
        start_from=None if start is None else _start(start, f"{where}.start_from", heard),
        hold_within=table.positives("hold_within"),
        elements=table.texts("elements"),
        qos=topic_qos(table, COMMAND),
    )
    table.require_empty()
    _require_one_size(where, entry)
    if entry.hold_within is not None and (entry.on_stop != "hold" or entry.start_from is None):
        raise ContractError(f"{where}.hold_within needs on_stop hold and start_from: the place that was measured")
    places = any(map(consumers.is_place, entry.fields))
    if entry.max_rate is not None and entry.start_from is None and (entry.on_stop != "zero" or places):
        what = f"on_stop {entry.on_stop}" if entry.on_stop != "zero" else "a position"
        raise ContractError(
            f"{where} has max_rate and {what} but no start_from, expected the measured state (topic, field, names): "
            "from there the first command after an activation or a stop is limited"
        )
    return entry


def _plan(table: Table, topic: str, kind: str) -> ActionEntry:
    entry = ActionEntry(
        topic=topic,
        type=kind,
        fields=(),
        on_stop=table.choice("on_stop", PLAN_STOPS[kind]),
        frame=table.choice("frame", FRAMES),
        qos=topic_qos(table, COMMAND),
    )
    table.require_empty()
    return entry


def _start(value: Any, where: str, heard: Mapping[str, ObservationEntry]) -> ObservationEntry:
    """The measured state; what it does not say is as the observation reads the same topic."""
    table = Table(value, where)
    topic = table.topic()
    same = heard.get(topic)
    names = table.texts("names")
    kind = table.type() if same is None else table.type(same.type)
    entry = ObservationEntry(
        topic=topic,
        type=kind,
        fields=table.fields(),
        max_age_s=table.number("max_age_s", 1e-3, 3600.0, *(() if same is None else (same.max_age_s,))),
        names=names,
        size=table.whole("size", 1, 65536, None),
        stamp=table.choice("stamp", STAMPS, None if same is None else same.stamp),
        qos=topic_qos(table, input_qos(kind, names) if same is None else same.qos),
    )
    table.require_empty()
    _require_one_size(where, entry)
    return entry


def _constants(table: Table, where: str) -> tuple[tuple[Path, Any], ...]:
    value = table.mapping("constants")
    for path, constant in value.items():
        if not isinstance(constant, bool | int | float | str) or (
            isinstance(constant, float) and not math.isfinite(constant)
        ):
            raise ContractError(f"{where}.constants.{path} is {shown(constant)}, expected a finite number or text")
    return tuple((table.path(path, "constants"), constant) for path, constant in value.items())


def _require_agreement(contract: Contract) -> None:
    first: dict[str, ObservationEntry] = {}
    inputs = [(f"observation[{index}]", entry) for index, entry in enumerate(contract.observation)]
    inputs += [
        (f"{where}.start_from", entry.start_from)
        for where, entry in contract.placed_actions()
        if entry.start_from is not None
    ]
    for where, entry in inputs:
        before = first.setdefault(entry.topic, entry)
        if before.type != entry.type:
            raise ContractError(f"{where}.type is {entry.type}, but {entry.topic} has type {before.type} before")
        for what in ("durability", "reliability"):
            found, expected = getattr(entry.qos, what), getattr(before.qos, what)
            if found != expected:
                raise ContractError(f"{where}.{what} is {found}, but {entry.topic} has {expected} before")
    keyed = [entry.key is not None for entry in contract.observation]
    if any(keyed) and not all(keyed):
        raise ContractError(f"observation[{keyed.index(False)}] has no key, expected one: other entries have theirs")
    if len(keyed) > 1 and not any(keyed) and any(entry.camera for entry in contract.observation):
        raise ContractError("observation has a picture and other entries without a key, expected a key for each")
    drawn = {entry.key for entry in contract.observation if entry.camera is not None}
    for index, entry in enumerate(contract.observation):
        if entry.camera is None and entry.key is not None and entry.key in drawn:
            raise ContractError(f"observation[{index}].key is {entry.key}, which a picture has: expected another")
    histories = [index for index, entry in enumerate(contract.observation) if entry.function == HISTORY]
    if len(histories) > 1:
        raise ContractError(f"observation[{histories[1]}].function is history, which another entry has: expected one")
    topics: set[str] = set()
    for where, action in contract.placed_actions():
        if action.topic in first:
            raise ContractError(f"{where}.topic is {action.topic}, which the observation reads: expected another")
        if action.topic in topics:
            raise ContractError(f"{where}.topic is {action.topic}, which another action has: expected another")
        topics.add(action.topic)
