"""``export_plans``: exports a driving agent as a bundle of two graphs and compares them with it before writing."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from dipole_runtime import GuidedPolicy
from dipole_runtime.bundle import Bundle
from dipole_runtime.manifest import (
    MANIFEST,
    PLANNER,
    SCENE_ENCODER,
    VECTORS,
    ActionSpec,
    FileEntry,
    Guidance,
    Manifest,
    ObservationPart,
    ObservationSpec,
    OmegaRange,
    Parity,
)
from dipole_runtime.parity import compare_plans
from dipole_runtime.plan_spec import ACCELERATION, CAMERAS, COMMAND, HISTORY, POSE, VELOCITY, PlanSpec
from dipole_runtime.scenes import SceneNetworks
from dipole_runtime.tolerances import PLAN_TOLERANCE
from dipole_runtime.vectors import PlanVectors

from dipole_export.candidates import PARITY_OMEGAS
from dipole_export.exported_form import SEED
from dipole_export.onnx_files import to_onnx
from dipole_export.pair import OMEGA_RANGE
from dipole_export.plan_graphs import PlanPolicy, SceneEncoder
from dipole_export.plan_text import ToldText
from dipole_export.writing import require_writable, write_bundle
from dipole_sb3.driving import scene
from dipole_sb3.driving.scene import HISTORY_POSES, PLAN_INTERVAL, PLAN_POSES, Observation
from dipole_sb3.driving.training.fine_tuning import adapters_of

if TYPE_CHECKING:
    from dipole_sb3.driving.agent import DPVLA

MAX_SPEED = 60.0
"""m/s: how far from the car the poses of a plan may be, unless another speed is asked for."""
OMEGA = 1.0
"""That of :meth:`DPVLA.predict`."""
PARITY_SCENES = 32
_SEEDS = 4
"""Different noises that plans are compared from, one for each test vector."""
_PARTS: Mapping[str, tuple[int, ...]] = {
    HISTORY: (HISTORY_POSES, POSE), VELOCITY: (2,), ACCELERATION: (2,), COMMAND: ()
}  # fmt: skip


def export_plans(
    agent: DPVLA,
    path: str | Path,
    *,
    picture: tuple[int, int] | None = None,
    omega: float = OMEGA,
    omega_range: tuple[float, float] = OMEGA_RANGE,
    max_speed: float = MAX_SPEED,
    observations: Observation | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Manifest:
    """Writes a plan bundle with everything that :mod:`dipole_runtime` needs: two ONNX graphs, manifest, test vectors.

    Resizing, the text, normalisation and the solver are inside the graphs. Before anything is written, the runtime and
    the agent plan for the same 32 scenes, at ω = −1 … 4, and are compared. The same agent gives the same bytes.

    :param agent: pre-trained or fine-tuned, by any method; of awr and dppo, which are one policy, ω is 0.
    :param path: a folder, or a single file if it ends in ``.dipole``; an existing bundle is replaced.
    :param picture: height and width of the cameras' pictures; None: the square that the encoder sees.
    :param omega: default ω.
    :param omega_range: smallest and largest ω that the runtime accepts, −1 ≤ low ≤ omega ≤ high.
    :param max_speed: m/s; a pose after t seconds may be max_speed·t ahead, behind, left or right of the car. The
        runtime refuses plans that leave these bounds.
    :param observations: a batch of them, to compare on; None: random ones.
    :param provenance: JSON values to store in addition to the agent's own.
    :return: the manifest, with the measured error.
    :raises ValueError: the bundle does not plan like the agent, or an argument is wrong; nothing is written.
    :raises OSError: the bundle cannot be written; an existing bundle is unchanged.
    """
    require_writable(Path(path))
    height, width = picture or (agent.configuration.image_size,) * 2
    if not max_speed > 0:
        raise ValueError(f"max_speed is {max_speed}, expected m/s above 0")
    turned = _omega(agent, omega, omega_range)
    # In single precision on the CPU, whatever the agent itself computes with.
    copied = copy.copy(agent)
    copied.planner = copy.deepcopy(agent.planner).cpu().float().eval()
    copied.device, copied.products = torch.device("cpu"), "fp32"
    encoder = SceneEncoder(copied.planner.encoder, ToldText(copied.tokenise), height, width)
    tokens = copied.configuration.tokens, copied.configuration.width
    networks = _networks(copied, encoder, height, width, tokens)
    seen = _random(height, width) if observations is None else observations
    require_pictures(seen, height, width)
    many = list(_planned(copied, seen, turned))
    action = _action(max_speed)
    vectors = _vectors(many, action, max_speed)
    files = {**networks, VECTORS: vectors.to_bytes()}
    manifest = Manifest(
        files={name: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()},
        observation=_observation(),
        action=action,
        guidance=Guidance(copied.configuration.steps, 1, turned),
        precision="fp32",
        parity=Parity(0.0, PLAN_TOLERANCE, 0.0, 0.0),
        provenance={},
        plan=PlanSpec(scene.CAMERAS, height, width, scene.COMMANDS, *tokens, PLAN_INTERVAL),
    )
    bundle = Bundle.from_files({MANIFEST: manifest.to_bytes(), **files}, str(path))
    by_omega = _errors(bundle, many)
    worst = max(by_omega, key=lambda omega: by_omega[omega])
    if not by_omega[worst] <= PLAN_TOLERANCE:
        raise ValueError(
            f"{path}: not written, because the bundle's plans differ from the agent's by {by_omega[worst]:.2g} m or "
            f"rad at ω = {worst:g}, expected at most {PLAN_TOLERANCE:g}"
        )
    errors = {"action_error_by_omega": {f"{omega:g}": error for omega, error in by_omega.items()}}
    manifest = replace(
        manifest,
        parity=Parity(by_omega[worst], PLAN_TOLERANCE, 0.0, 0.0),
        provenance={**_provenance(agent), **(provenance or {}), **errors},
    )
    bundle = Bundle.from_files({MANIFEST: manifest.to_bytes(), **files}, str(path))
    GuidedPolicy.from_bundle(bundle)
    write_bundle(bundle, Path(path))
    return manifest


def require_pictures(observations: Observation, height: int, width: int) -> None:
    """Refuses observations that are no batch, or whose pictures have another size than the bundle's."""
    found = np.shape(observations.cameras)
    expected = (len(scene.CAMERAS), height, width, 3)
    if found[1:] != expected or not found[0]:
        raise ValueError(
            f"observations: cameras have shape {list(found)}, expected a batch of {list(expected)}: give the size of "
            "your pictures with picture="
        )


def _omega(agent: DPVLA, default: float, bounds: tuple[float, float]) -> OmegaRange:
    if not agent.takes_omega:
        return OmegaRange(0.0, 0.0, 0.0)
    low, high = bounds
    if not -1 <= low <= default <= high:
        raise ValueError(f"omega is {default:g} and omega_range {low:g} … {high:g}, expected −1 ≤ low ≤ omega ≤ high")
    return OmegaRange(float(default), float(low), float(high))


def _networks(
    agent: DPVLA, encoder: SceneEncoder, height: int, width: int, tokens: tuple[int, int]
) -> dict[str, bytes]:
    planner = PlanPolicy(agent.planner, adapters_of(agent.method), agent.configuration.steps)
    shape = (len(scene.CAMERAS), height, width, 3)
    seen = {
        CAMERAS: torch.zeros(shape, dtype=torch.uint8),
        VELOCITY: torch.ones(2),
        ACCELERATION: torch.ones(2),
        COMMAND: torch.tensor(1),
    }
    known = {
        "tokens": torch.zeros(tokens),
        HISTORY: torch.zeros(_PARTS[HISTORY]),
        "noise": torch.zeros(PLAN_POSES, 4),
        "omega": torch.zeros(2),
    }
    return {
        SCENE_ENCODER: to_onnx(encoder, seen, ["tokens"], {}),
        PLANNER: to_onnx(planner, known, ["plan"], {"omega": "omegas"}),
    }


def _random(height: int, width: int) -> Observation:
    """Scenes of noise, seen from a car that drives about straight on."""
    random = np.random.default_rng(SEED)
    velocity = random.normal(size=(PARITY_SCENES, 2)) * (5.0, 0.3) + (8.0, 0.0)
    past = PLAN_INTERVAL * np.arange(1 - HISTORY_POSES, 1)
    history = np.zeros((PARITY_SCENES, HISTORY_POSES, POSE))
    history[:, :, :2] = velocity[:, None] * past[:, None]
    history[:, :, 2] = 0.1 * random.normal(size=(PARITY_SCENES, 1)) * past
    return Observation(
        cameras=random.integers(0, 256, (PARITY_SCENES, len(scene.CAMERAS), height, width, 3), np.uint8),
        history=history.astype(np.float32),
        velocity=velocity.astype(np.float32),
        acceleration=random.normal(size=(PARITY_SCENES, 2)).astype(np.float32),
        command=random.integers(len(scene.COMMANDS), size=PARITY_SCENES),
    )


def _omegas(turned: OmegaRange) -> list[float]:
    """Those that are compared: what is usual, within the range, and its ends."""
    usual = {omega for omega in PARITY_OMEGAS if turned.low <= omega <= turned.high}
    return sorted(usual | {turned.low, turned.default, turned.high})


def _planned(agent: DPVLA, seen: Observation, turned: OmegaRange) -> Iterator[PlanVectors]:
    """The agent's own plans, at most 32 scenes in as many parts as there are noises."""
    omegas = _omegas(turned)
    scenes = np.arange(min(len(seen.cameras), PARITY_SCENES))
    for seed, indices in enumerate(np.array_split(scenes, min(_SEEDS, len(scenes)))):
        some = Observation(*(np.asarray(getattr(seen, field.name))[indices] for field in fields(Observation)))
        asked = [omega if agent.takes_omega else None for omega in omegas]
        plans = np.stack([agent.predict(some, omega, seed=seed) for omega in asked], axis=1)
        noise = torch.randn((1, 1, PLAN_POSES, 4), generator=torch.Generator().manual_seed(seed)).numpy()
        yield PlanVectors(
            cameras=some.cameras,
            observations=_flat(some),
            noise=np.repeat(noise.reshape(1, 1, -1), len(indices), axis=0),
            omegas=np.array(omegas, np.float32),
            plans=plans.reshape(len(indices), len(omegas), -1).astype(np.float32),
        )


def _flat(seen: Observation) -> np.ndarray:
    parts = [np.reshape(getattr(seen, name), (len(seen.cameras), -1)) for name in _PARTS]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _vectors(many: Sequence[PlanVectors], action: ActionSpec, max_speed: float) -> PlanVectors:
    """The first scene of each noise whose plans are within the bounds at every ω.

    :raises ValueError: some noise has no such scene.
    """
    chosen = []
    for part in many:
        within = (part.plans >= np.array(action.low)) & (part.plans <= np.array(action.high))
        inside = np.asarray(within.all(axis=(1, 2)))
        if not inside.any():
            raise ValueError(
                f"the agent's plans leave the bounds of max_speed {max_speed:g} m/s in all {len(inside)} scenes at "
                "some ω; give observations of your data, a smaller omega_range or a larger max_speed"
            )
        at = int(np.argmax(inside))
        chosen.append((part, slice(at, at + 1)))
    arrays = {
        name: np.concatenate([getattr(part, name)[at] for part, at in chosen])
        for name in ("cameras", "observations", "noise", "plans")
    }
    return PlanVectors(omegas=many[0].omegas, **arrays)


def _errors(bundle: Bundle, many: Sequence[PlanVectors]) -> dict[float, float]:
    """The largest difference at each ω, in metres and radians."""
    networks, found = SceneNetworks(bundle), {}
    for index, omega in enumerate(many[0].omegas):
        errors = [
            compare_plans(
                networks.plans,
                replace(part, omegas=part.omegas[index : index + 1], plans=part.plans[:, index : index + 1]),
                bundle.manifest,
            ).action_error
            for part in many
        ]
        found[float(omega)] = max(errors)
    return found


def _observation() -> ObservationSpec:
    names = []
    for key in _PARTS:
        count = int(np.prod(_PARTS[key]))
        names += [f"{key}_{index}" for index in range(count)] if count > 1 else [key]
    parts = tuple(
        ObservationPart(
            key, shape, "int64" if key == COMMAND else "float32", "Discrete" if key == COMMAND else "Box", None
        )
        for key, shape in _PARTS.items()
    )
    return ObservationSpec(len(names), tuple(names), parts)


def _action(max_speed: float) -> ActionSpec:
    times = PLAN_INTERVAL * np.arange(1, PLAN_POSES + 1)
    names = tuple(f"{what}_{time:g}s" for time in times for what in ("x", "y", "yaw"))
    high = tuple(float(np.float32(bound)) for time in times for bound in (max_speed * time, max_speed * time, np.pi))
    return ActionSpec(len(names), (PLAN_POSES, POSE), names, tuple(-bound for bound in high), high)


def _provenance(agent: DPVLA) -> dict[str, Any]:
    counts = {name: getattr(agent, name) for name in ("method", "pretrained_epochs", "updates", "scored_plans")}
    packages = {name: version(name) for name in ("dipole-sb3", "torch", "transformers", "peft", "onnxscript")}
    return {
        "algorithm": type(agent).__name__,
        **counts,
        "configuration": agent.configuration.as_dict(),
        "packages": packages,
    }
