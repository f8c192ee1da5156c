"""``export_bundle``: a model's networks as ONNX, checked against the model before anything is written."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from dipole_runtime import GuidedPolicy
from dipole_runtime.bundle import Bundle
from dipole_runtime.manifest import (
    CRITIC,
    GUIDED,
    MANIFEST,
    NEGATIVE,
    POSITIVE,
    VECTORS,
    ActionSpec,
    FileEntry,
    Manifest,
    Normalization,
    ObservationPart,
    ObservationSpec,
    OmegaRange,
    Parity,
)
from dipole_runtime.parity import compare
from dipole_runtime.reference import TwoNetworkPolicy
from dipole_runtime.sessions import Floats, Network
from dipole_runtime.vectors import TestVectors
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from dipole_export import graphs
from dipole_export.onnx_files import quantized, to_onnx
from dipole_export.rounding import LEAST_WIDTH, NOT_ROUNDED, Rounded, rounded_layers
from dipole_export.trainer import drawn_observations, random_observations, trainer_vectors
from dipole_export.writing import require_writable, write_bundle
from dipole_sb3 import DIPOLE
from dipole_sb3.buffers.normalization import ObservationStatistics

Precision = Literal["fp32", "int8"]

ACTION_TOLERANCE = 1e-4
"""Of the action range: what single precision may differ by."""
Q_TOLERANCE = 1e-3
"""Of max(1, |q|); Q-values only choose among candidates."""
PARITY_OMEGAS = (-1.0, 0.0, 0.5, 1.0, 2.0, 4.0)
PARITY_OBSERVATIONS = 1_000
_PARITY_CANDIDATES = 2
_VECTORS = 8
_FITTED_OBSERVATIONS = 256
_VECTOR_CANDIDATES = 32
_SEED = 0
_INT8_MARGIN = 2.0
"""The robot's processor may round differently than this one."""
_HYPERPARAMETERS = ("beta", "shift", "gamma", "tau", "expectile", "critic_target", "q_agg", "batch_size")
_UNMEASURED = Parity(0.0, 0.0, 0.0, 0.0)


def export_bundle(
    model: DIPOLE,
    path: str | Path,
    precision: Precision = "fp32",
    *,
    omega_range: tuple[float, float] = (-1.0, 4.0),
    max_int8_error: float = 0.05,
    observations: np.ndarray | Mapping[str, np.ndarray] | None = None,
    observation_names: Sequence[str] | None = None,
    action_names: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Manifest:
    """Writes a bundle: four ONNX graphs, the manifest and the test vectors, all that :mod:`dipole_runtime` needs.

    The observation's normalisation (VecNormalize), its preprocessing and features extractor, and the actions' clipping
    and scaling are inside the graphs: raw observations go in, what the actuator gets comes out. Before anything is
    written, the runtime acts on 1,000 observations at ω = −1 … 4 beside the model. The same model gives the same
    bytes.

    :param model: trained, or loaded.
    :param path: a folder, or a single file when it ends in ``.dipole``; a bundle that is there is replaced.
    :param precision: ``"fp32"``, or ``"int8"``: the large matrices in 8 bits, a quarter of the size and faster.
    :param omega_range: smallest and largest ω that the runtime accepts, −1 ≤ low ≤ high.
    :param max_int8_error: refuse int8 when an action differs by more than this share of its range.
    :param observations: raw ones like those that the robot will meet, shape [rows, *observation], by key for a Dict.
        The errors are measured on 1,000 of them, 8 go into the bundle as test vectors, and int8 is fitted to them.
        None: random ones, with VecNormalize's statistics where there are any, else of the observation space.
    :param observation_names: one per element of the flat observation, for messages and the robot's configuration.
    :param action_names: one per element of the flat action.
    :param provenance: JSON values to keep beside what the model knows of itself.
    :return: the manifest, with the errors that were measured.
    :raises ValueError: what the model needs cannot be part of a bundle, or the bundle does not act as the model does;
        nothing is written.
    :raises OSError: it cannot be written; a bundle that was there is untouched.
    """
    if precision not in ("fp32", "int8"):
        raise ValueError(f"precision is {precision!r}, expected 'fp32' or 'int8'")
    require_writable(Path(path))
    source = _source(model)
    omega = _omega(model, omega_range)
    omegas = sorted({*(one for one in PARITY_OMEGAS if omega.low <= one <= omega.high), *vars(omega).values()})
    if observations is None:
        flat = random_observations(model.observation_space, source.statistics, PARITY_OBSERVATIONS, _SEED)
    else:
        flat = drawn_observations(model.observation_space, observations, PARITY_OBSERVATIONS, _SEED)
    vectors = trainer_vectors(model, flat[:_VECTORS], min(model.num_candidates, _VECTOR_CANDIDATES), omegas, _SEED)
    networks = _networks(source)
    if precision == "int8":
        networks = _in_8_bits(networks, source, flat[:_FITTED_OBSERVATIONS], omegas)
    files = {**networks, VECTORS: vectors.to_bytes()}
    manifest = Manifest(
        files={name: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()},
        observation=_observation(model, source, observation_names),
        action=_action(model, source, action_names),
        flow_steps=source.flow_steps,
        num_candidates=model.num_candidates,
        omega=omega,
        precision=precision,
        parity=_UNMEASURED,
        provenance={**_provenance(model), **(provenance or {})},
    )
    many = trainer_vectors(model, flat, _PARITY_CANDIDATES, omegas, _SEED + 1)
    errors = _errors(Bundle.from_files({MANIFEST: manifest.to_bytes(), **files}, str(path)), vectors, many)
    manifest = replace(
        manifest,
        parity=_accepted(errors, precision, max_int8_error, str(path)),
        provenance={
            **manifest.provenance,
            "action_error_by_omega": {f"{omega:g}": error.action_error for omega, error in errors.items()},
        },
    )
    bundle = Bundle.from_files({MANIFEST: manifest.to_bytes(), **files}, str(path))
    GuidedPolicy.from_bundle(bundle)
    write_bundle(bundle, Path(path))
    return manifest


def _errors(bundle: Bundle, vectors: TestVectors, many: TestVectors) -> dict[float, Parity]:
    """By ω, how far the fused graph is from the trainer on both, and the two networks on the bundle's own vectors."""
    guided = Network(GUIDED, bundle.files[GUIDED])

    def fused(observation: Floats, noise: Floats, omegas: Floats) -> tuple[Floats, Floats]:
        inputs = {"observation": observation[None], "noise": noise, "omega": omegas}
        action, q = guided.run(("action", "q"), inputs)
        return action, q

    compared = [(fused, vectors), (fused, many), (TwoNetworkPolicy(bundle).run, vectors)]
    errors = {}
    for index, omega in enumerate(vectors.omegas):
        measured = [compare(run, _at_omega(some, index), bundle.manifest) for run, some in compared]
        errors[float(omega)] = replace(
            measured[0],
            action_error=max(one.action_error for one in measured),
            q_error=max(one.q_error for one in measured),
        )
    return errors


def _at_omega(vectors: TestVectors, index: int) -> TestVectors:
    at = slice(index, index + 1)
    return replace(vectors, omegas=vectors.omegas[at], candidates=vectors.candidates[:, at], q=vectors.q[:, at])


def _accepted(errors: Mapping[float, Parity], precision: Precision, max_int8_error: float, where: str) -> Parity:
    """The largest errors of all ω, and what a robot's runtime may accept.

    :raises ValueError: further from the trainer than accepted.
    """
    omega, worst = max(errors.items(), key=lambda item: item[1].action_error)
    action, q = worst.action_error, max(one.q_error for one in errors.values())
    accepted = ACTION_TOLERANCE if precision == "fp32" else max_int8_error
    if not action <= accepted:
        advice = "; export with precision='fp32', a smaller omega_range, or accept more with max_int8_error"
        raise ValueError(
            f"{where}: not written, because the {precision} bundle's actions differ from the model's by {action:.2g} "
            f"of their range at ω = {omega:g}, expected at most {accepted:g}{advice if precision == 'int8' else ''}"
        )
    if precision == "int8":
        return Parity(action, max(_INT8_MARGIN * action, ACTION_TOLERANCE), q, max(_INT8_MARGIN * q, Q_TOLERANCE))
    if not q <= Q_TOLERANCE:
        raise ValueError(
            f"{where}: not written, because the bundle's Q-values differ from the model's by {q:.2g} of max(1, |q|), "
            f"expected at most {Q_TOLERANCE:g}"
        )
    return Parity(action, ACTION_TOLERANCE, q, Q_TOLERANCE)


def _source(model: DIPOLE) -> graphs.Source:
    """Copies of what acts; refuses what bundles cannot hold.

    :raises ValueError: images, bounds that are not finite, or a normalisation that is not there.
    """
    for key, space in graphs.flat_order(model.observation_space).items():
        name = "observations" if key is None else f"the observation {key!r}"
        if is_image_space(space) or len(space.shape or ()) > 2:
            raise ValueError(
                f"{name} are images of shape {space.shape}: bundles hold policies on vectors and Dicts of vectors only"
            )
    statistics = model.observation_statistics
    space = model.action_space
    assert isinstance(space, spaces.Box)
    low, high = _inside(space)
    policy = model.policy
    actor, critic = copy.deepcopy(policy.actor), copy.deepcopy(policy.critic)
    return graphs.Source(actor.cpu().eval(), critic.cpu().eval(), statistics, policy.flow_steps, low, high)


def _inside(space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """The bounds in single precision, rounded inwards: what leaves the graph is never outside."""
    low, high = (bound.reshape(-1).astype(np.float64) for bound in (space.low, space.high))
    single_low, single_high = low.astype(np.float32), high.astype(np.float32)
    single_low = np.where(single_low < low, np.nextafter(single_low, np.float32(np.inf)), single_low)
    single_high = np.where(single_high > high, np.nextafter(single_high, np.float32(-np.inf)), single_high)
    if not (np.isfinite(single_low).all() and np.isfinite(single_high).all() and (single_low < single_high).all()):
        raise ValueError(f"the action space is {space}, expected finite bounds with low < high in every dimension")
    return single_low.astype(np.float32), single_high.astype(np.float32)


def _networks(source: graphs.Source) -> dict[str, bytes]:
    observation, size = _flat_size(source), len(source.low)
    # The exporter takes sizes of 1 for fixed ones.
    batch, candidates, omegas = 2, 3, 2
    one, several = torch.zeros(1, observation), torch.zeros(batch, observation)
    action = torch.zeros(batch, size)
    field = {"observation": several, "action_t": action, "time": torch.zeros(batch, 1)}
    guided = {"observation": one, "noise": torch.zeros(candidates, size), "omega": torch.zeros(omegas)}
    valued = {"observation": several, "action": action}
    free = {"noise": "candidates", "omega": "omegas"}
    return {
        GUIDED: to_onnx(graphs.GuidedPolicy(source), guided, ["action", "q"], free),
        POSITIVE: to_onnx(graphs.VelocityField(source, 0), field, ["velocity"], dict.fromkeys(field, "batch")),
        NEGATIVE: to_onnx(graphs.VelocityField(source, 1), field, ["velocity"], dict.fromkeys(field, "batch")),
        CRITIC: to_onnx(graphs.Critic(source), valued, ["q"], dict.fromkeys(valued, "batch")),
    }


def _in_8_bits(
    networks: Mapping[str, bytes], source: graphs.Source, observations: np.ndarray, omegas: Sequence[float]
) -> dict[str, bytes]:
    """The velocity fields' hidden layers; the critics, which choose by small differences and run once, stay float."""
    noise = np.random.default_rng(_SEED).standard_normal((len(observations), len(source.low))).astype(np.float32)
    policy = graphs.GuidedPolicy(source).eval()
    fields = rounded_layers(policy, *map(torch.as_tensor, (observations, noise, np.asarray(omegas, np.float32))))
    positive, negative = (
        {f"perceptron.weights.{index}": layer for index, layer in enumerate(layers) if layer is not NOT_ROUNDED}
        for layers in fields
    )
    if not positive:
        raise ValueError(
            f"precision is 'int8', but no hidden layer has {LEAST_WIDTH} × {LEAST_WIDTH} weights or more, where 8 bits "
            "begin to pay; export with precision='fp32'"
        )
    named = {
        GUIDED: _prefixed("positive", positive) | _prefixed("negative", negative),
        POSITIVE: _prefixed("field", positive),
        NEGATIVE: _prefixed("field", negative),
    }
    return {name: quantized(graph, named[name]) if name in named else graph for name, graph in networks.items()}


def _prefixed(prefix: str, layers: Mapping[str, Rounded]) -> dict[str, Rounded]:
    return {f"{prefix}.{name}": layer for name, layer in layers.items()}


def _flat_size(source: graphs.Source) -> int:
    return sum(map(graphs.flat_size, graphs.flat_order(source.actor.observation_space).values()))


def _observation(model: DIPOLE, source: graphs.Source, names: Sequence[str] | None) -> ObservationSpec:
    order = graphs.flat_order(model.observation_space)
    size = sum(map(graphs.flat_size, order.values()))
    if names is None:
        names = [
            f"{key or 'observation'}_{index}"
            for key, space in order.items()
            for index in range(graphs.flat_size(space))
        ]
    _require_names("observation_names", names, size)
    parts = (
        ObservationPart(
            key=key,
            shape=tuple(space.shape or ()),
            dtype=str(space.dtype),
            space=type(space).__name__,
            normalization=_normalization(source.statistics.get(key)),
        )
        for key, space in order.items()
    )
    return ObservationSpec(size, tuple(names), tuple(parts))


def _normalization(statistics: ObservationStatistics | None) -> Normalization | None:
    if statistics is None:
        return None
    mean, std = (tuple(map(float, np.ravel(values))) for values in (statistics.mean, statistics.std))
    return Normalization(mean, std, min(statistics.clip, graphs.LARGEST))


def _action(model: DIPOLE, source: graphs.Source, names: Sequence[str] | None) -> ActionSpec:
    size = len(source.low)
    names = [f"action_{index}" for index in range(size)] if names is None else names
    _require_names("action_names", names, size)
    low, high = (tuple(map(float, bound)) for bound in (source.low, source.high))
    assert isinstance(model.action_space, spaces.Box)
    return ActionSpec(size, model.action_space.shape, tuple(names), low, high)


def _require_names(argument: str, names: Sequence[str], size: int) -> None:
    if len(names) != size or len(set(names)) != size:
        raise ValueError(f"{argument}: found {len(names)} names, {len(set(names))} different, expected {size}")


def _omega(model: DIPOLE, bounds: tuple[float, float]) -> OmegaRange:
    (knob,) = (knob for knob in model.policy.knobs if knob.name == "omega")
    low, high = (knob.checked(bound, "omega_range") for bound in bounds)
    if not low <= model.omega <= high:
        raise ValueError(
            f"the model's omega {model.omega:g} is not in omega_range {low:g} … {high:g}: set model.omega, or give a "
            "range that holds it"
        )
    return OmegaRange(float(model.omega), low, high)


def _provenance(model: DIPOLE) -> dict[str, Any]:
    """What the model knows of how it was made; only what a saved and loaded model still knows."""
    hyperparameters = {name: getattr(model, name) for name in _HYPERPARAMETERS}
    hyperparameters["net_arch"] = model.policy.net_arch
    return {
        "algorithm": type(model).__name__,
        "timesteps": model.num_timesteps,
        "seed": model.seed,
        "hyperparameters": hyperparameters,
        "packages": {name: version(name) for name in ("dipole-sb3", "torch", "stable-baselines3", "onnxscript")},
    }
