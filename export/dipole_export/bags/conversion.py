"""Makes a data set from a recording and a contract."""

from __future__ import annotations

import dataclasses
import datetime
import platform
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from dipole_policy.contract import Contract
from dipole_policy.errors import ContractError
from dipole_policy.observation import Inputs
from dipole_policy.plan import require_no_plans
from dipole_runtime import read_bundle
from dipole_runtime.manifest import Manifest, ObservationSpec
from gymnasium import spaces

from dipole_export.bags.commands import Commands, command_readers
from dipole_export.bags.reading import CLOCK, CLOCK_TYPE, Bag, BagError, earlier
from dipole_export.bags.rewards import ExpressionReward, Reward, TopicReward, signal
from dipole_export.bags.rows import Rows
from dipole_export.bags.seen import Seen
from dipole_export.bags.transitions import END, NO_COMMAND, Sources, Transitions
from dipole_sb3.common.expressions import Expression, Vector
from dipole_sb3.datasets.storage import DatasetWriter
from dipole_sb3.recording.recording_files import Recording

NODE = "dipole_policy"
_LARGEST_PACE_ERROR = 0.1


@dataclasses.dataclass(frozen=True)
class BagOptions:
    """Options that cannot be read from the recording.

    :param reward: ``/topic``, ``/topic:field.path``, or an expression.
    :param terminal: the topic (and field) that reports a terminal state, which ends the episode; None: no topic does.
    :param set_back: the topic (and field) that reports that the robot was set back to a start state; None: no topic.
    :param bundle: a bundle whose manifest the contract must fit; it also gives the bounds of actions. None: no bundle.
    :param action_low: one number for all elements or one for each, in the robot's units; None: the bundle's, else −1.
    :param action_high: likewise; None: the bundle's, else 1.
    :param namespace: namespace of the contract's relative topics.
    :param delay_s: seconds between an observation and the command that answers it, in the recording; 0 to 3600.
    :param hold_s: seconds that a command stays valid if no other follows; 0 to 3600; 0: for its own period only.
    :param reward_max_age_s: largest age of a reward topic's value, 0 to 3600 seconds; None: two periods.
    :param use_sim_time: whether to take the time from the recording's /clock.
    :param image_size: height and width that pictures are made smaller to; None: they stay as the cameras give them.
    """

    reward: str
    terminal: str | None = None
    set_back: str | None = None
    bundle: Path | None = None
    action_low: tuple[float, ...] | None = None
    action_high: tuple[float, ...] | None = None
    namespace: str = "/"
    delay_s: float = 0.0
    hold_s: float = 0.0
    reward_max_age_s: float | None = None
    use_sim_time: bool = False
    image_size: tuple[int, int] | None = None


def recording_of_bag(path: Path, contract_path: Path, options: BagOptions) -> Recording:
    """Transitions of a rosbag2 recording, with the observations that the ROS 2 node would have built.

    :param path: a folder of rosbag2, or one .mcap or .db3 file.
    :param contract_path: the robot's contract (YAML).
    :return: float32 arrays and uint8 pictures, actions in the robot's units, and the provenance as a JSON-ready
        dictionary. Parts of a Dict observation are ``observations/KEY``.
    :raises ValueError: recording, contract, bundle or options do not fit; the message says which part.
    """
    rows = Rows()
    provenance = _converted(path, contract_path, options, lambda *spaces_: rows)
    arrays = rows.arrays()
    _require_within(path, arrays["actions"], provenance["action_low"], provenance["action_high"])
    return Recording(arrays, provenance)


def store_bag(path: Path, contract_path: Path, options: BagOptions, out: Path, command: str) -> dict[str, Any]:
    """As :func:`recording_of_bag`, into a stored data set: every frame once, and never all of them in memory.

    :param out: its folder, which appears when it is complete.
    :param command: kept in the provenance.
    :return: the provenance, which is the data set's metadata.
    :raises DatasetError: the folder's name is taken.
    """
    with ExitStack() as stack:
        writers: list[DatasetWriter] = []

        def begin(observations: spaces.Space[Any], actions: spaces.Box) -> Rows:
            writers.append(stack.enter_context(DatasetWriter(out, observations, actions, source=str(path))))
            low, high = actions.low.tolist(), actions.high.tolist()

            def append(arrays: dict[str, np.ndarray]) -> None:
                _require_within(path, arrays["actions"], low, high)
                writers[0].append(_by_key(arrays))

            return Rows(append)

        provenance = _converted(path, contract_path, options, begin)
        writers[0].metadata = {**provenance, "command": command}
    return provenance


def _by_key(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """``observations/KEY`` as tables of their own."""
    found: dict[str, Any] = {}
    for name, value in arrays.items():
        column, _, key = name.partition("/")
        if key:
            found.setdefault(column, {})[key] = value
        else:
            found[column] = value
    return found


def _converted(
    path: Path, contract_path: Path, options: BagOptions, begin: Callable[[spaces.Space[Any], spaces.Box], Rows]
) -> dict[str, Any]:
    """Reads the recording.

    :param begin: observation and action space → where the transitions go.
    :return: the provenance.
    """
    for name in ("delay_s", "hold_s", "reward_max_age_s"):
        value = getattr(options, name)
        if value is not None and not 0.0 <= value <= 3600.0:
            raise ValueError(f"{name.removesuffix('_s').replace('_', '-')} is {value}, expected 0 to 3600 seconds")
    if options.image_size is not None and not all(1 <= one <= 4096 for one in options.image_size):
        raise ValueError(f"image-size is {options.image_size}, expected height and width from 1 to 4096 pixels")
    contract = _resolved(Contract.load(contract_path), options.namespace)
    manifest = None if options.bundle is None else read_bundle(options.bundle).manifest
    with Bag(path) as bag:
        _require_topics(bag, contract, options.use_sim_time)
        try:
            require_no_plans(contract)
            seen = Seen.of(bag, contract, manifest, options.image_size)
        except ContractError as error:
            raise ContractError(f"contract {contract.where}: {error}") from error
        commands = _commands(bag, contract, manifest, _nanoseconds(options.hold_s))
        names = _action_names(contract, commands) if manifest is None else manifest.action.names
        reward = _reward(bag, options, contract, seen.spec, commands.size, names)
        terminal = None if options.terminal is None else signal(bag, options.terminal, "the terminal")
        set_back = None if options.set_back is None else signal(bag, options.set_back, "the reset")
        low, high = _bounds(options, manifest, commands.size)
        inputs = Inputs(seen.readers)
        transitions = Transitions(
            begin(seen.space, spaces.Box(np.array(low, np.float32), np.array(high, np.float32))),
            Sources(inputs, seen.layout, seen.spec, commands, reward, terminal, set_back),
            _nanoseconds(contract.period_s),
            _nanoseconds(options.hold_s),
        )
        topics = {*inputs.topics, *commands.topics}
        topics |= {one.topic for one in (reward, terminal, set_back) if one is not None and one.topic is not None}
        events = bag.events(topics, options.use_sim_time)
        delay_ns = _nanoseconds(options.delay_s)
        transitions.read(earlier(events, {topic: delay_ns + ahead for topic, ahead in commands.ahead_ns.items()}))
    _require_steps(path, transitions, contract)
    transitions.rows.finish()
    return _provenance(path, contract_path, contract, options, transitions, low, high)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)


def _resolved(contract: Contract, namespace: str) -> Contract:
    """The contract with full topic names, as in recordings."""

    def full(topic: str) -> str:
        if topic.startswith("/"):
            return topic
        inner = f"{NODE}/{topic.removeprefix('~/')}" if topic.startswith("~/") else topic
        return "/" + "/".join(part for part in (*namespace.split("/"), *inner.split("/")) if part)

    return contract.with_topics(full)


def _require_topics(bag: Bag, contract: Contract, simulated: bool) -> None:
    for entry in contract.observation:
        bag.require(entry.topic, "the observation", entry.type)
    for action in contract.actions:
        bag.require(action.topic, "the action", action.type)
    if simulated:
        bag.require(CLOCK, "simulated time", CLOCK_TYPE)


def _commands(bag: Bag, contract: Contract, manifest: Manifest | None, hold_ns: int) -> Commands:
    readers = command_readers(contract, bag.describe, None if manifest is None else manifest.action)
    for one in readers:
        topic = one.entry.topic
        first = next(bag.events([topic]), None)
        if first is None:
            raise BagError(f"{bag.path}: {topic} cannot be read, expected commands; the recording is damaged")
        try:
            one.settle(first.message)
        except ContractError as error:
            raise ContractError(f"contract {contract.where}: {error}") from error
    return Commands(readers, bag.counts, _nanoseconds(contract.period_s), hold_ns)


def _action_names(contract: Contract, commands: Commands) -> tuple[str, ...]:
    """A name for each element of the action: the contract's where it has one for each of a topic's."""
    names: list[str] = []
    for entry, count in zip(contract.actions, commands.sizes, strict=True):
        given = entry.elements or entry.names
        names += given if len(given) == count else (f"action_{len(names) + index}" for index in range(count))
    return tuple(names)


def _reward(
    bag: Bag, options: BagOptions, contract: Contract, spec: ObservationSpec, actions: int, names: tuple[str, ...]
) -> Reward:
    text = options.reward.strip()
    if text.startswith("/"):
        age = 2.0 * contract.period_s if options.reward_max_age_s is None else options.reward_max_age_s
        return TopicReward(bag, text, age)
    observation = Vector(spec.size, spec.names)
    vectors = {"observation": observation, "action": Vector(actions, names), "next_observation": observation}
    try:
        return ExpressionReward(Expression(text, vectors))
    except ValueError as error:
        raise ValueError(f"the reward is neither a topic (/name or /name:field) nor allowed: {error}") from error


def _bounds(options: BagOptions, manifest: Manifest | None, size: int) -> tuple[list[float], list[float]]:
    found = []
    for name, given, of_bundle, default in (
        ("low", options.action_low, None if manifest is None else manifest.action.low, -1.0),
        ("high", options.action_high, None if manifest is None else manifest.action.high, 1.0),
    ):
        values = given or of_bundle or (default,)
        if len(values) not in (1, size):
            raise ValueError(f"the action's {name} has {len(values)} numbers, expected 1 or {size}, one per element")
        if not np.isfinite(values).all():
            raise ValueError(f"the action's {name} is {list(values)}, expected finite numbers")
        found.append(list(values) * (size if len(values) == 1 else 1))
    low, high = found
    for at, (least, most) in enumerate(zip(low, high, strict=True)):
        if least >= most:
            raise ValueError(f"action[{at}] has the bounds {least:g} and {most:g}, expected low below high")
    return low, high


def _require_steps(path: Path, transitions: Transitions, contract: Contract) -> None:
    count = len(transitions.rows)
    if not count:
        causes = ", ".join(f"{reason} ({found})" for reason, found in (transitions.ends + transitions.left_out).items())
        first = f"; the first: {transitions.first_problem}" if transitions.first_problem is not None else ""
        raise BagError(f"{path}: holds no complete step of the contract: {causes}{first}")
    mean_s = transitions.duration_ns * 1e-9 / count
    if abs(mean_s / contract.period_s - 1.0) > _LARGEST_PACE_ERROR:
        raise BagError(
            f"{path}: the commands make steps of {mean_s:.4f} s in the mean, expected {contract.period_s:.4f} s for "
            f"the contract's rate_hz {contract.rate_hz:g}"
        )


def _require_within(path: Path, actions: np.ndarray, low: list[float], high: list[float]) -> None:
    """Compares actions and bounds in single precision, because the data file will be read so."""
    for at, (least, most) in enumerate(zip(np.array(low, np.float32), np.array(high, np.float32), strict=True)):
        found_low, found_high = float(actions[:, at].min()), float(actions[:, at].max())
        if found_low < least or found_high > most:
            raise BagError(
                f"{path}: action[{at}] goes from {found_low:g} to {found_high:g}, expected {least:g} to {most:g}; give "
                "the robot's bounds by --action-low and --action-high, or its --bundle"
            )


def _provenance(
    path: Path,
    contract_path: Path,
    contract: Contract,
    options: BagOptions,
    transitions: Transitions,
    low: list[float],
    high: list[float],
) -> dict[str, Any]:
    rows = transitions.rows
    packages = ("dipole-sb3", "rosbags", "numpy")
    return {
        "recorded_by": "rosbag2",
        "bag": path.resolve().name,
        "contract": contract_path.read_text(encoding="utf-8"),
        "rate_hz": contract.rate_hz,
        **{key: str(value) if isinstance(value, Path) else value for key, value in _given(options).items()},
        "steps": len(rows),
        "action_low": low,
        "action_high": high,
        "episode_ends": dict(transitions.ends),
        "commands_left_out": dict(transitions.left_out),
        "first_problem": None if transitions.first_problem is None else str(transitions.first_problem),
        "step_mean_s": round(transitions.duration_ns * 1e-9 / len(rows), 6),
        "packages": {"python": platform.python_version(), **{name: metadata.version(name) for name in packages}},
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "data_episodes": rows.episodes,
        "data_return_mean": round(rows.total_reward / rows.episodes, 3),
    }


def _given(options: BagOptions) -> dict[str, Any]:
    """The given options, except action bounds, which the provenance stores separately."""
    given = dataclasses.asdict(options)
    return {key: value for key, value in given.items() if value is not None and not key.startswith("action_")}


def summary(facts: Mapping[str, Any]) -> str:
    """The result of a conversion in a few lines, from its provenance."""
    ends = ", ".join(f"{_END_TEXTS.get(reason, reason)} {count}" for reason, count in facts["episode_ends"].items())
    lines = [
        f"{facts['steps']} transitions in {facts['data_episodes']} episodes, mean return "
        f"{facts['data_return_mean']:.2f}, {1e3 * facts['step_mean_s']:.1f} ms a step",
        f"episodes ended by: {ends}",
    ]
    if facts["commands_left_out"]:
        left_out = ", ".join(f"{reason} {count}" for reason, count in facts["commands_left_out"].items())
        lines.append(f"commands that could begin no episode: {left_out}")
    if facts["first_problem"] is not None:
        lines.append(f"first problem: {facts['first_problem']}")
    return "\n".join(lines)


_END_TEXTS = {NO_COMMAND: "no further command", END: "end of the recording"}
