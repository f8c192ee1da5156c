"""manifest.json: a bundle's description of itself, parsed strictly and written canonically."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dipole_runtime.contradictions import contradictions
from dipole_runtime.errors import GuidedPolicyError, refusing, shown
from dipole_runtime.pictures import EncoderSpec, PictureSpec
from dipole_runtime.plan_spec import PlanSpec, noise_size
from dipole_runtime.schema import Json, first_problem, manifest_schema

FORMAT = "dipole-bundle"
PolicyForm = Literal["pair", "deterministic", "diffusion", "plan"]
"""How a bundle's policy acts: ``pair`` draws N guided candidates and the critics choose; ``deterministic`` has one
action for an observation; ``diffusion`` draws N candidates in steps that add noise, and the critics choose; ``plan``
draws one guided plan, the poses of a car, from the pictures of its cameras."""
FORMAT_VERSIONS: Mapping[PolicyForm, int] = {"pair": 1, "deterministic": 2, "diffusion": 3, "plan": 4}
"""First format version with this form. A pair keeps version 1, so programs that know only version 1 can run it."""
VERSION_WITH_PICTURES = 5
"""That of any form but a plan, if its policy sees pictures."""
OPSET = 20
IR_VERSION = 10

MANIFEST = "manifest.json"
GUIDED = "guided_policy.onnx"
POSITIVE = "policy_positive.onnx"
NEGATIVE = "policy_negative.onnx"
DETERMINISTIC = "deterministic_policy.onnx"
PREDICTOR = "noise_predictor.onnx"
CRITIC = "critic.onnx"
ENCODER = "encoder.onnx"
SCENE_ENCODER = "scene_encoder.onnx"
PLANNER = "planner.onnx"
VECTORS = "test_vectors.npz"
NETWORK_FILES: Mapping[PolicyForm, tuple[str, ...]] = {
    "pair": (GUIDED, POSITIVE, NEGATIVE, CRITIC),
    "deterministic": (DETERMINISTIC, CRITIC),
    "diffusion": (GUIDED, PREDICTOR, CRITIC),
    "plan": (SCENE_ENCODER, PLANNER),
}

_NO_CRITICS = {"q_error": 0.0, "q_tolerance": 0.0}
"""What a plan bundle's manifest leaves out of its parity."""

MAX_MANIFEST_SIZE = 1 << 20
"""In bytes."""
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

    :param key: the entry's key; None if the observation is not a Dict.
    :param shape: shape in the robot's program.
    :param dtype: type in the robot's program; values are cast to float32.
    :param space: kind of Gymnasium space.
    :param normalization: None if the graphs do not normalise the values.
    """

    key: str | None
    shape: tuple[int, ...]
    dtype: str
    space: str
    normalization: Normalization | None

    @property
    def size(self) -> int:
        """Number of elements, at least 1."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class ObservationSpec:
    """The flat vector that the graphs take: its parts, flattened and concatenated in this order.

    Of a bundle with pictures: everything that is seen but those; graphs take features in its place.

    :param size: number of elements in all, 1 to 65,536; 0 if pictures are all that is seen.
    :param names: one per element, all different.
    """

    size: int
    names: tuple[str, ...]
    parts: tuple[ObservationPart, ...]

    @property
    def is_dict(self) -> bool:
        """Whether observations are mappings."""
        return bool(self.parts) and self.parts[0].key is not None


@dataclass(frozen=True)
class ActionSpec:
    """The policy's output, in the robot's units.

    :param size: number of elements, 1 to 4,096.
    :param shape: shape of the action that :meth:`GuidedPolicy.act` returns; it has ``size`` elements.
    :param names: one per element of the flattened action, all different.
    :param low: smallest values, finite, one per element.
    :param high: largest values, finite, one per element, above ``low``.
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
class Guidance:
    """How a policy of any form but a deterministic one gets from noise to its action.

    :param flow_steps: K, 1 to 1,000; of a diffusion policy T, its denoising steps; of a plan those of the solver.
    :param num_candidates: default number of candidates N, 1 to 4,096; of a plan 1 alone.
    :param omega: of a diffusion policy 0 alone.
    :param betas: β₁ … β_T in (0, 1), the variances of a diffusion policy's steps; empty: a pair.
    """

    flow_steps: int
    num_candidates: int
    omega: OmegaRange
    betas: tuple[float, ...] = ()


@dataclass(frozen=True)
class Parity:
    """Largest differences from the trainer, and the tolerances for them; see :mod:`dipole_runtime.parity`.

    :param action_error: as a share of each action's range; of a plan in metres and radians.
    :param q_error: as a share of max(1, |q|); 0 for a plan, which has no critics.
    """

    action_error: float
    action_tolerance: float
    q_error: float
    q_tolerance: float


@dataclass(frozen=True)
class Manifest:
    """The contents of a bundle and how to use them.

    :param files: all files except the manifest, by name.
    :param guidance: None: a deterministic policy, which has no ω and no candidates.
    :param provenance: JSON values: how the policy was made.
    :param plan: of a plan bundle; None: it holds another form of policy.
    :param encoder: of a bundle whose policy sees pictures; None: it sees none, or it makes plans.
    """

    files: Mapping[str, FileEntry]
    observation: ObservationSpec
    action: ActionSpec
    guidance: Guidance | None
    precision: Literal["fp32", "int8"]
    parity: Parity
    provenance: Mapping[str, Any]
    plan: PlanSpec | None = None
    encoder: EncoderSpec | None = None
    opset: int = OPSET
    ir_version: int = IR_VERSION

    @property
    def policy(self) -> PolicyForm:
        """How the policy acts."""
        if self.plan is not None:
            return "plan"
        if self.guidance is None:
            return "deterministic"
        return "diffusion" if self.guidance.betas else "pair"

    @property
    def noise_size(self) -> int:
        """Standard normal numbers that a candidate starts from: an action's size, for each step if it is diffusion."""
        if self.plan is not None:
            return noise_size(self.action.size)
        return 0 if self.guidance is None else self.action.size * max(1, len(self.guidance.betas))

    @property
    def omega(self) -> OmegaRange | None:
        """The range of ω; None: the policy has no greediness."""
        return None if self.guidance is None else self.guidance.omega

    @property
    def format_version(self) -> int:
        """Version of the bundle's format."""
        return FORMAT_VERSIONS[self.policy] if self.encoder is None else VERSION_WITH_PICTURES

    @property
    def pictures(self) -> tuple[PictureSpec, ...]:
        """What the policy's cameras see; of a plan bundle, whose cameras are in ``plan``, none."""
        return () if self.encoder is None else self.encoder.pictures

    @property
    def seen_size(self) -> int:
        """Numbers in the graphs' input ``observation``: the flat observation's, or the encoder's features."""
        return self.observation.size if self.encoder is None else self.encoder.features

    @property
    def network_files(self) -> tuple[str, ...]:
        """Names of the ONNX files."""
        return NETWORK_FILES[self.policy] + (() if self.encoder is None else (ENCODER,))

    @property
    def data_files(self) -> tuple[str, ...]:
        """Names of all files except the manifest."""
        return (*self.network_files, VECTORS)

    @classmethod
    def from_bytes(cls, data: bytes, where: str) -> Manifest:
        """Parses and checks everything: the schema, the fields against each other, the canonical form and the checksum.

        :param data: content of manifest.json, at most 1 MiB.
        :param where: the bundle's name, for error messages.
        :raises GuidedPolicyError: anything that :meth:`to_bytes` would not have written.
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
            guidance=_guidance(value),
            precision=value["precision"],
            parity=Parity(**{**_NO_CRITICS, **{name: float(number) for name, number in value["parity"].items()}}),
            provenance=value["provenance"],
            plan=PlanSpec.from_json(value["plan"]) if "plan" in value else None,
            encoder=EncoderSpec.from_json(value["encoder"]) if "encoder" in value else None,
        )
        problem = next(contradictions(manifest), None)
        if problem is not None:
            raise GuidedPolicyError(problem)
        # The checksum covers only the values; the comparison below also refuses an edit that keeps the values.
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
        """The canonical file, including its checksum.

        :raises GuidedPolicyError: a value that JSON cannot hold.
        """
        return _canonical({**self._to_json(), "checksum": self.checksum})

    def _to_json(self) -> dict[str, Json]:
        return {
            "format": FORMAT,
            "format_version": self.format_version,
            "files": {name: {"sha256": entry.sha256, "size": entry.size} for name, entry in self.files.items()},
            "observation": {
                "size": self.observation.size,
                "names": list(self.observation.names),
                "parts": [_part_to_json(part) for part in self.observation.parts],
            },
            "action": {name: _plain(value) for name, value in vars(self.action).items()},
            **_guidance_to_json(self),
            **({} if self.encoder is None else {"encoder": self.encoder.to_json(), "policy": self.policy}),
            "opset": self.opset,
            "ir_version": self.ir_version,
            "precision": self.precision,
            "parity": {
                name: number
                for name, number in vars(self.parity).items()
                if self.plan is None or name not in _NO_CRITICS
            },
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
    # Damaged files can also contain numbers with thousands of digits, or thousands of brackets.
    except (ValueError, RecursionError) as error:
        raise GuidedPolicyError(f"is not JSON in UTF-8 ({shown(str(error), 80)}): it was edited or damaged") from error


def _require_this_format(value: Json) -> None:
    """Checked before the schema, which only knows this version."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        found = value.get("format") if isinstance(value, dict) else value
        raise GuidedPolicyError(f"at format: found {shown(found)}, expected {FORMAT!r}: this is not a dipole bundle")
    version = value.get("format_version")
    newest = max(*FORMAT_VERSIONS.values(), VERSION_WITH_PICTURES)
    if isinstance(version, int) and version > newest:
        raise GuidedPolicyError(
            f"at format_version: found {shown(version)}, expected at most {newest}: the bundle was made by a "
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


def _guidance(value: Json) -> Guidance | None:
    """Version 1 has only pairs, and no field for the form."""
    form = value.get("policy", "pair")
    if form == "deterministic":
        return None
    candidates = 1 if form == "plan" else int(value["num_candidates"])
    if form == "diffusion":
        betas = _floats(value["betas"])
        return Guidance(len(betas), candidates, OmegaRange(0.0, 0.0, 0.0), betas)
    omega = OmegaRange(**{name: float(number) for name, number in value["omega"].items()})
    return Guidance(int(value["flow_steps"]), candidates, omega)


def _guidance_to_json(manifest: Manifest) -> dict[str, Json]:
    """Fields that a policy does not have are left out of its manifest."""
    guidance = manifest.guidance
    if guidance is None:
        return {"policy": "deterministic"}
    if manifest.plan is not None:
        turned = {"flow_steps": guidance.flow_steps, "omega": dict(vars(guidance.omega))}
        return {"policy": "plan", "plan": manifest.plan.to_json(), **turned}
    candidates = {"num_candidates": guidance.num_candidates}
    if guidance.betas:
        return {"policy": "diffusion", "betas": list(guidance.betas), **candidates}
    return {"flow_steps": guidance.flow_steps, "omega": dict(vars(guidance.omega)), **candidates}


def _floats(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(map(float, values))


def _plain(value: Any) -> Json:
    return list(value) if isinstance(value, tuple) else value
