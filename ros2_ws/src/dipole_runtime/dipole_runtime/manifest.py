"""manifest.json: what a bundle says of itself, parsed strictly and written canonically."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dipole_runtime.errors import GuidedPolicyError, refusing, shown
from dipole_runtime.schema import Json, first_problem, manifest_schema

FORMAT = "dipole-bundle"
FORMAT_VERSION = 1
OPSET = 20
IR_VERSION = 10

MANIFEST = "manifest.json"
GUIDED = "guided_policy.onnx"
POSITIVE = "policy_positive.onnx"
NEGATIVE = "policy_negative.onnx"
CRITIC = "critic.onnx"
VECTORS = "test_vectors.npz"
NETWORK_FILES = (GUIDED, POSITIVE, NEGATIVE, CRITIC)
DATA_FILES = (*NETWORK_FILES, VECTORS)
BUNDLE_FILES = (MANIFEST, *DATA_FILES)

MAX_MANIFEST_SIZE = 1 << 20
"""Bytes."""
MAX_BUNDLE_SIZE = 256 << 20
"""Bytes, of all files together."""
MAX_CANDIDATES = 4096


@dataclass(frozen=True)
class FileEntry:
    """A file of the bundle: sha256 in hexadecimal, size in bytes."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Normalization:
    """What the graphs do to a part's raw values: clip((x − mean) / std, −clip, clip); one mean and std per element."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    clip: float


@dataclass(frozen=True)
class ObservationPart:
    """The observation, or one entry of a Dict observation.

    :param key: the entry's key; None when the observation is not a Dict.
    :param shape: as the robot's program holds it.
    :param dtype: as the robot's program holds it; values are cast to float32.
    :param space: kind of Gymnasium space.
    :param normalization: None when the graphs take the values as they are.
    """

    key: str | None
    shape: tuple[int, ...]
    dtype: str
    space: str
    normalization: Normalization | None

    @property
    def size(self) -> int:
        """Elements, at least 1."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class ObservationSpec:
    """The flat vector that the graphs take: its parts, flattened and concatenated in this order.

    :param size: elements in all, 1 to 65,536.
    :param names: one per element, all different.
    """

    size: int
    names: tuple[str, ...]
    parts: tuple[ObservationPart, ...]

    @property
    def is_dict(self) -> bool:
        """Whether observations are mappings."""
        return self.parts[0].key is not None


@dataclass(frozen=True)
class ActionSpec:
    """What leaves the policy, in the robot's units.

    :param size: elements, 1 to 4,096.
    :param shape: of the action that :meth:`GuidedPolicy.act` returns; its elements are ``size``.
    :param names: one per element of the flattened action, all different.
    :param low: finite, one per element.
    :param high: finite, above ``low``.
    """

    size: int
    shape: tuple[int, ...]
    names: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class OmegaRange:
    """The greediness ω: −1 ≤ low ≤ default ≤ high."""

    default: float
    low: float
    high: float


@dataclass(frozen=True)
class Parity:
    """Largest differences from the trainer and those that are accepted; see :mod:`dipole_runtime.parity`.

    :param action_error: as a share of each action's range.
    :param q_error: as a share of max(1, |q|).
    """

    action_error: float
    action_tolerance: float
    q_error: float
    q_tolerance: float


@dataclass(frozen=True)
class Manifest:
    """What a bundle holds and how it is used.

    :param files: the five files besides the manifest, by name.
    :param flow_steps: K, 1 to 1,000.
    :param num_candidates: N unless another is asked for, 1 to 4,096.
    :param provenance: JSON values: how the policy was made.
    """

    files: Mapping[str, FileEntry]
    observation: ObservationSpec
    action: ActionSpec
    flow_steps: int
    num_candidates: int
    omega: OmegaRange
    precision: Literal["fp32", "int8"]
    parity: Parity
    provenance: Mapping[str, Any]
    opset: int = OPSET
    ir_version: int = IR_VERSION

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Parses and checks everything: the schema, the fields against each other, canonical form and checksum.

        :param data: content of manifest.json, at most 1 MiB.
        :param where: the bundle's name for messages.
        :raises GuidedPolicyError: for anything that :meth:`to_bytes` would not have written.
        """
        with refusing(where):
            try:
                return cls._parse(data)
            except GuidedPolicyError as error:
                raise GuidedPolicyError(f"{MANIFEST} {error}") from error.__cause__

    @classmethod
    def _parse(cls, data: bytes) -> Manifest:
        if len(data) > MAX_MANIFEST_SIZE:
            raise GuidedPolicyError(f"has {len(data)} bytes, expected at most {MAX_MANIFEST_SIZE}")
        value = _json(data)
        _require_this_format(value)
        problem = first_problem(value, manifest_schema())
        if problem is not None:
            raise GuidedPolicyError(problem)
        manifest = cls(
            files={name: FileEntry(entry["sha256"], int(entry["size"])) for name, entry in value["files"].items()},
            observation=_observation(value["observation"]),
            action=_action(value["action"]),
            flow_steps=int(value["flow_steps"]),
            num_candidates=int(value["num_candidates"]),
            omega=OmegaRange(**{name: float(number) for name, number in value["omega"].items()}),
            precision=value["precision"],
            parity=Parity(**{name: float(number) for name, number in value["parity"].items()}),
            provenance=value["provenance"],
        )
        problem = next(_contradictions(manifest), None)
        if problem is not None:
            raise GuidedPolicyError(problem)
        # Before the checksum, which only the manifest's own values make: an edit that keeps them is refused too.
        if value["checksum"] != manifest.checksum:
            raise GuidedPolicyError(
                f"at checksum: found {value['checksum'][:12]}…, expected {manifest.checksum[:12]}… for what the file "
                "says: it was edited or damaged"
            )
        if manifest.to_bytes() != data:
            raise GuidedPolicyError("is not written canonically (sorted keys, two spaces): it was edited or damaged")
        return manifest

    @property
    def checksum(self) -> str:
        """sha256, in hexadecimal, of the canonical bytes without the key "checksum"."""
        return hashlib.sha256(_canonical(self._to_json())).hexdigest()

    def to_bytes(self) -> bytes:
        """The canonical file, its checksum included.

        :raises GuidedPolicyError: for values that JSON does not have.
        """
        return _canonical({**self._to_json(), "checksum": self.checksum})

    def _to_json(self) -> dict[str, Json]:
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "files": {name: {"sha256": entry.sha256, "size": entry.size} for name, entry in self.files.items()},
            "observation": {
                "size": self.observation.size,
                "names": list(self.observation.names),
                "parts": [_part_to_json(part) for part in self.observation.parts],
            },
            "action": {name: _plain(value) for name, value in vars(self.action).items()},
            "flow_steps": self.flow_steps,
            "num_candidates": self.num_candidates,
            "omega": dict(vars(self.omega)),
            "opset": self.opset,
            "ir_version": self.ir_version,
            "precision": self.precision,
            "parity": dict(vars(self.parity)),
            "provenance": self.provenance,
        }


def _canonical(value: Json) -> bytes:
    try:
        text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise GuidedPolicyError(f"holds what JSON has no words for ({error})") from error


def _json(data: bytes) -> Json:
    try:
        return json.loads(data.decode("utf-8"))
    # Damaged files also hold numbers of thousands of digits and thousands of brackets.
    except (ValueError, RecursionError) as error:
        raise GuidedPolicyError(f"is not JSON in UTF-8 ({shown(str(error), 80)}): it was edited or damaged") from error


def _require_this_format(value: Json) -> None:
    """Before the schema, which only knows this version."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else value
        raise GuidedPolicyError(f"at format: found {shown(found)}, expected {FORMAT!r}: this is not a dipole bundle")
    version = value.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise GuidedPolicyError(
            f"at format_version: found {shown(version)}, expected at most {FORMAT_VERSION}: the bundle was made by a "
            "newer version of the exporter; update dipole_runtime"
        )


def _observation(value: Json) -> ObservationSpec:
    return ObservationSpec(int(value["size"]), tuple(value["names"]), tuple(map(_part, value["parts"])))


def _part(value: Json) -> ObservationPart:
    normalization = value["normalization"]
    return ObservationPart(
        key=value["key"],
        shape=tuple(map(int, value["shape"])),
        dtype=value["dtype"],
        space=value["space"],
        normalization=None
        if normalization is None
        else Normalization(_floats(normalization["mean"]), _floats(normalization["std"]), float(normalization["clip"])),
    )


def _part_to_json(part: ObservationPart) -> dict[str, Json]:
    normalization = part.normalization
    return {
        **{name: _plain(value) for name, value in vars(part).items()},
        "normalization": normalization and {name: _plain(value) for name, value in vars(normalization).items()},
    }


def _action(value: Json) -> ActionSpec:
    return ActionSpec(
        size=int(value["size"]),
        shape=tuple(map(int, value["shape"])),
        names=tuple(value["names"]),
        low=_floats(value["low"]),
        high=_floats(value["high"]),
    )


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(map(float, values))


def _plain(value: Any) -> Json:
    return list(value) if isinstance(value, tuple) else value


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """What no schema can say: fields that do not agree with each other."""
    observation, action, omega, parity = manifest.observation, manifest.action, manifest.omega, manifest.parity
    keys = [part.key for part in observation.parts]
    if (None in keys and len(keys) > 1) or len(set(keys)) != len(keys):
        yield f"at observation.parts: found the keys {shown(str(keys))}, expected one null or different strings"
    sizes = sum(part.size for part in observation.parts)
    if sizes != observation.size:
        yield f"at observation.parts: found {sizes} elements in all, expected observation.size {observation.size}"
    for index, part in enumerate(observation.parts):
        if part.normalization is not None:
            for name in ("mean", "std"):
                found = len(getattr(part.normalization, name))
                if found != part.size:
                    at = f"observation.parts[{index}].normalization.{name}"
                    yield f"at {at}: found {found} numbers, expected the part's {part.size}"
    if math.prod(action.shape) != action.size:
        yield f"at action.shape: found {math.prod(action.shape)} elements, expected action.size {action.size}"
    for name, names, size in (
        ("observation", observation.names, observation.size),
        ("action", action.names, action.size),
    ):
        yield from _problems_of_names(name, names, size)
    for key in keys:
        if key is not None and not key.isprintable():
            yield f"at observation.parts: found the key {shown(key)}, expected printable characters"
    for name, bounds in (("low", action.low), ("high", action.high)):
        if len(bounds) != action.size:
            yield f"at action.{name}: found {len(bounds)} numbers, expected action.size {action.size}"
    for name, low, high in zip(action.names, action.low, action.high, strict=False):
        if not low < high:
            yield f"at action.low: found {low} for {shown(name)}, expected less than its high {high}"
    if not omega.low <= omega.default <= omega.high:
        yield f"at omega: found low {omega.low}, default {omega.default}, high {omega.high}, expected that order"
    for name, error, tolerance in (
        ("action", parity.action_error, parity.action_tolerance),
        ("q", parity.q_error, parity.q_tolerance),
    ):
        if error > tolerance:
            yield f"at parity.{name}_error: found {error}, expected at most parity.{name}_tolerance {tolerance}"
    total = sum(entry.size for entry in manifest.files.values())
    if total > MAX_BUNDLE_SIZE:
        yield f"at files: found {total} bytes in all, expected at most {MAX_BUNDLE_SIZE}"


def _problems_of_names(of: str, names: Sequence[str], size: int) -> Iterator[str]:
    if len(names) != size:
        yield f"at {of}.names: found {len(names)}, expected {of}.size {size}"
    seen: set[str] = set()
    for name in names:
        if not name.isprintable():
            yield f"at {of}.names: found {shown(name)}, expected printable characters"
        if name in seen:
            yield f"at {of}.names: found {shown(name)} twice, expected different names"
        seen.add(name)
