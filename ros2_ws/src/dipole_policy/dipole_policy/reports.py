"""The node's reports, as messages."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from dipole_runtime import Manifest
from std_msgs.msg import Float64MultiArray, MultiArrayDimension, MultiArrayLayout

from dipole_policy.holder import Loaded
from dipole_policy.loop import ControlLoop, Decision, distance
from dipole_policy.omega import OmegaRecord
from dipole_policy.supervisor import State

Stamp = Any
"""A message of type builtin_interfaces/msg/Time."""

_SOUND = (State.OFF, State.DRIVING)


def status(level: bytes, name: str, message: str, hardware: str, values: Mapping[str, object]) -> DiagnosticStatus:
    """A diagnostic status; values become text."""
    return DiagnosticStatus(
        level=level,
        name=name,
        message=message,
        hardware_id=hardware,
        values=[KeyValue(key=key, value=_text(value)) for key, value in values.items()],
    )


def _level(state: State) -> bytes:
    level: bytes = DiagnosticStatus.OK
    if state not in _SOUND:
        level = DiagnosticStatus.ERROR if state is State.STOPPED else DiagnosticStatus.WARN
    return level


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.9g}"
    # Lists, tables, truth values and nothing as every language reads them.
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def audit(record: OmegaRecord, name: str, stamp: Stamp) -> DiagnosticArray:
    """The message for a requested change of ω."""
    level = DiagnosticStatus.OK if record.accepted else DiagnosticStatus.WARN
    values = {
        "number": record.number,
        "time_ns": record.time_ns,
        "source": record.source,
        # With all digits: an audit must not round.
        "old": repr(record.old),
        "new": repr(record.new),
        "accepted": record.accepted,
        "reason": record.reason,
    }
    message = "accepted" if record.accepted else f"rejected: {record.reason}"
    array = DiagnosticArray(status=[status(level, f"{name}: omega", message, "", values)])
    array.header.stamp = stamp
    return array


def driving(name: str, loop: ControlLoop | None, problem: str | None, stamp_ns: int) -> DiagnosticStatus:
    """The message of ~/status: whether the node drives and, if not, why; for programs.

    :param loop: None while the node is not configured.
    """
    state = State.OFF if loop is None else loop.supervisor.state
    cause = None if loop is None else loop.supervisor.cause
    omega = None if loop is None else loop.omega.target
    values = {
        "state": "unconfigured" if loop is None else state.name.lower(),
        "cause": "" if cause is None else cause.kind.value,
        "detail": problem or "" if cause is None else cause.detail,
        "omega": omega,
        "time_ns": stamp_ns,
    }
    message = values["state"] if cause is None else f"{values['state']}: {cause}"
    return status(_level(state), f"{name}: status", str(message), "", values)


def model_info(loaded: Loaded, name: str) -> DiagnosticStatus:
    """The message that describes the driving bundle."""
    manifest: Manifest = loaded.policy.manifest
    observation, action = manifest.observation, manifest.action
    values = {
        "bundle": loaded.path,
        "hash": loaded.policy.hash,
        "policy": manifest.policy,
        "precision": manifest.precision,
        "observation.size": observation.size,
        "observation.names": ", ".join(observation.names),
        **_cameras(manifest),
        "action.names": ", ".join(action.names),
        "action.low": ", ".join(map(repr, action.low)),
        "action.high": ", ".join(map(repr, action.high)),
        **_guidance(loaded),
        **{f"provenance.{key}": value for key, value in manifest.provenance.items()},
    }
    return status(DiagnosticStatus.OK, f"{name}: model", loaded.policy.hash[:12], loaded.policy.hash[:12], values)


def _cameras(manifest: Manifest) -> dict[str, object]:
    """Of a bundle that takes pictures."""
    if (plan := manifest.plan) is not None:
        return {"cameras": f"{', '.join(plan.cameras)}: {plan.width} × {plan.height} pixels"}
    found = [
        f"{one.key or 'observation'}: {one.width} × {one.height} pixels × {one.channels}" for one in manifest.pictures
    ]
    return {"pictures": ", ".join(found)} if found else {}


def _guidance(loaded: Loaded) -> dict[str, object]:
    """What can be varied, with its values; empty for a deterministic policy."""
    guidance = loaded.policy.manifest.guidance
    if guidance is None:
        return {}
    return {
        "flow_steps": guidance.flow_steps,
        "num_candidates": loaded.num_candidates or guidance.num_candidates,
        **{f"omega.{name}": repr(getattr(guidance.omega, name)) for name in ("low", "default", "high")},
    }


def driven(decision: Decision) -> Float64MultiArray:
    """The command that was sent, and its ω; NaN if the policy has none."""
    action = decision.action
    omega = math.nan if action.omega is None else action.omega
    values = [float(decision.number or 0), decision.time_ns * 1e-9, omega, action.value]
    label = ",".join(("number", "time_s", "omega", "q", *decision.loaded.policy.manifest.action.names))
    return _row(label, [*values, *decision.command.tolist()])


def latency(decision: Decision) -> Float64MultiArray:
    """The times of one decision."""
    return _row("inference_s,command_s,period_s", [decision.action.latency_s, decision.elapsed_s, decision.period_s])


def shadow(decision: Decision) -> Float64MultiArray:
    """The action for each shadow ω: one row each."""
    loaded, rows = decision.loaded, []
    for action in decision.shadow:
        far = distance(action, decision.action, loaded)
        assert action.omega is not None
        rows.append([action.omega, action.value, far, *action.action.reshape(-1).tolist()])
    width = 3 + loaded.limits.size
    label = ",".join(("omega", "q", "distance", *loaded.policy.manifest.action.names))
    dimensions = [
        MultiArrayDimension(label="shadow_omegas", size=len(rows), stride=len(rows) * width),
        MultiArrayDimension(label=label, size=width, stride=width),
    ]
    return Float64MultiArray(layout=MultiArrayLayout(dim=dimensions), data=[value for row in rows for value in row])


def _row(label: str, values: list[float]) -> Float64MultiArray:
    dimension = MultiArrayDimension(label=label, size=len(values), stride=len(values))
    return Float64MultiArray(layout=MultiArrayLayout(dim=[dimension]), data=values)


def diagnostics(
    name: str,
    lifecycle: str,
    problem: str | None,
    loop: ControlLoop | None,
    now_ns: int,
    wiring: Mapping[str, str] | None = None,
) -> DiagnosticStatus:
    """The message with the node's state.

    :param wiring: topic → why nothing can come or go there.
    :param lifecycle: label of the lifecycle's state.
    :param problem: why configuring or reloading failed last; None if it did not.
    :param loop: None while the node is not configured.
    """
    values: dict[str, object] = {"lifecycle": lifecycle}
    if problem is not None:
        values["problem"] = problem
    if loop is None:
        level = DiagnosticStatus.OK if problem is None else DiagnosticStatus.ERROR
        return status(level, name, problem or lifecycle, "", values)
    supervisor, cause = loop.supervisor, loop.supervisor.cause
    state = supervisor.state
    values["state"] = state.value
    values["cause"] = "" if cause is None else str(cause)
    values["omega"] = "none" if loop.omega.target is None else loop.omega.target
    values["bundle"] = loop.holder.current.path
    values["bundle_hash"] = loop.holder.current.policy.hash
    values["reloads"] = loop.holder.reloads
    values["commands"] = loop.wire.sent
    statistics = loop.statistics
    for kind, summary in (("inference", statistics.latency()), ("period_jitter", statistics.jitter())):
        values |= {f"{kind}_{part}_s": getattr(summary, part) for part in ("mean", "p99", "max")}
    faults = statistics.faults()
    values["deadline_misses"] = loop.deadlines.total
    values |= {f"faults.{kind}": count for kind, count in faults.items()}
    for topic, age in loop.inputs.ages_s(now_ns).items():
        values[f"age_s.{topic}"] = "never" if age is None else age
    if loop.telling_failed:
        values["telling_failed"] = loop.telling_failed
    wiring = wiring or {}
    values |= {f"wiring.{topic}": text for topic, text in wiring.items()}
    message = state.value if cause is None else f"{state.value}: {cause}"
    level = _level(state)
    told = [*([] if problem is None or state not in _SOUND else [problem]), *wiring.values()]
    if told:
        level = max(level, DiagnosticStatus.WARN)
        message = "; ".join([message, *told])
    return status(level, name, message, loop.holder.current.policy.hash[:12], values)
