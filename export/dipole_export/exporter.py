"""``export_bundle``: exports a model's networks as ONNX and compares them with the model before writing a file."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from dipole_runtime import GuidedPolicy
from dipole_runtime.bundle import Bundle
from dipole_runtime.manifest import (
    ENCODER,
    MANIFEST,
    VECTORS,
    ActionSpec,
    FileEntry,
    Manifest,
    Normalization,
    ObservationPart,
    ObservationSpec,
    Parity,
)
from dipole_runtime.tolerances import (
    ACTION_TOLERANCE,
    INT8_MARGIN,
    LARGEST_INT8_ERROR,
    LARGEST_INT8_Q_ERROR,
    Q_TOLERANCE,
)
from gymnasium import spaces

from dipole_export.deterministic import ExportedDeterministic
from dipole_export.diffusion import ExportedDiffusion
from dipole_export.exported_form import SEED, ExportedForm, NothingToRoundError
from dipole_export.observed import LARGEST, Source, flat_order, flat_size, picture_order
from dipole_export.pair import ExportedPair, omega_of
from dipole_export.pictures import Encoding, Seen, encoder_spec
from dipole_export.trainer import drawn_observations, random_observations
from dipole_export.writing import require_writable, write_bundle
from dipole_sb3.buffers.normalization import ObservationStatistics
from dipole_sb3.datasets.image_sizes import ImageSize
from dipole_sb3.learning.model_files import checksum_of_parameters
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.networks.acting_forms import ActingForm, Deterministic, Diffusion, GuidedConditional

Precision = Literal["fp32", "int8"]

PARITY_OBSERVATIONS = 1_000
PARITY_PICTURES = 100
_VECTORS = 8
_FITTED_OBSERVATIONS = 256
_UNMEASURED = Parity(0.0, 0.0, 0.0, 0.0)


def export_bundle(
    model: OfflineAlgorithm,
    path: str | Path,
    precision: Precision = "fp32",
    *,
    omega_range: tuple[float, float] | None = None,
    picture: ImageSize | Mapping[str, ImageSize] | None = None,
    max_int8_error: float = 0.05,
    observations: np.ndarray | Mapping[str, np.ndarray] | None = None,
    observation_names: Sequence[str] | None = None,
    action_names: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Manifest:
    """Writes a bundle with everything that :mod:`dipole_runtime` needs: ONNX graphs, manifest and test vectors.

    The graphs include the normalisation of observations (VecNormalize), their preprocessing and features extractor, and
    the clipping and scaling of actions. So the input is a raw observation and the output is the actuators' command.
    Pictures (uint8) become features in a graph of their own, once for each decision; those of a camera with more pixels
    than in training are resized there as Pillow's BILINEAR does. Before anything is written, the runtime and the model
    act on the same 1,000 observations (100 if they are pictures) and are compared, at ω = −1 … 4 if the policy has an
    ω. The same model gives the same bytes.

    :param model: trained or loaded; of any algorithm whose policy has a form that bundles support.
    :param path: a folder, or a single file if it ends in ``.dipole``; an existing bundle is replaced.
    :param precision: ``"fp32"``, or ``"int8"``: the large matrices in 8 bits, a quarter of the size and faster; of a
        policy that sees pictures the whole encoder, too.
    :param omega_range: smallest and largest ω that the runtime accepts, −1 ≤ low ≤ high; None: −1 … 4. Must be None for
        a policy without greediness.
    :param picture: height and width of what the cameras give, in pixels; for several of them by key. None: as in
        training.
    :param max_int8_error: refuse int8 if an action differs by more than this share of its range; above 0, at most 0.2.
    :param observations: raw observations like those on the robot, shape [rows, *observation], by key for a Dict. The
        errors are measured on 1,000 of them (100 with pictures), 8 go into the bundle as test vectors, and int8 is
        fitted to them. None: random ones, from VecNormalize's statistics if there are any, else from the space.
    :param observation_names: one per element of the flat observation, for messages and the robot's configuration.
    :param action_names: one per element of the flat action.
    :param provenance: JSON values to store in addition to the model's own provenance.
    :return: the manifest, with the measured errors.
    :raises ValueError: bundles do not support something that the model needs, or the bundle does not act like the
        model; nothing is written.
    :raises OSError: the bundle cannot be written; an existing bundle is unchanged.
    """
    bundles = export_bundles(
        model,
        {precision: path},
        omega_range=omega_range,
        picture=picture,
        max_int8_error=max_int8_error,
        observations=observations,
        observation_names=observation_names,
        action_names=action_names,
        provenance=provenance,
    )
    return bundles[precision]


def export_bundles(
    model: OfflineAlgorithm,
    paths: Mapping[Precision, str | Path],
    *,
    omega_range: tuple[float, float] | None = None,
    picture: ImageSize | Mapping[str, ImageSize] | None = None,
    max_int8_error: float = 0.05,
    observations: np.ndarray | Mapping[str, np.ndarray] | None = None,
    observation_names: Sequence[str] | None = None,
    action_names: Sequence[str] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> dict[Precision, Manifest]:
    """Bundles of one model in several precisions, whose graphs are made once; else see :func:`export_bundle`.

    :param paths: precision → where its bundle goes; each is written before the next one is made.
    :return: the manifests by precision.
    """
    for precision, path in paths.items():
        if precision not in ("fp32", "int8"):
            raise ValueError(f"precision is {precision!r}, expected 'fp32' or 'int8'")
        require_writable(Path(path))
    if isinstance(max_int8_error, bool) or not 0 < max_int8_error <= LARGEST_INT8_ERROR:
        raise ValueError(f"max_int8_error is {max_int8_error}, expected more than 0 and at most {LARGEST_INT8_ERROR}")
    form = exported_form(model, omega_range)
    encoder = encoder_spec(model.observation_space, picture, form.source.seen_size)
    sizes = [] if encoder is None else [(one.height, one.width) for one in encoder.pictures]
    count = PARITY_OBSERVATIONS if encoder is None else PARITY_PICTURES
    if observations is None:
        seen = random_observations(model.observation_space, form.source.statistics, count, SEED, sizes)
    else:
        seen = drawn_observations(model.observation_space, observations, count, SEED, sizes)
    observation = _observation(model, form.source, observation_names)
    action = _action(model, form.source, action_names)
    vectors = form.vectors(seen[:_VECTORS])
    exact = form.networks()
    encoding = None if encoder is None else Encoding(form.source, encoder)
    if encoding is not None:
        exact[ENCODER] = encoding.to_onnx()
    manifests: dict[Precision, Manifest] = {}
    for precision, path in paths.items():
        networks = exact if precision == "fp32" else _in_8_bits(form, encoding, exact, seen[:_FITTED_OBSERVATIONS])
        files = {**networks, VECTORS: vectors.to_bytes()}
        manifest = Manifest(
            files={name: FileEntry(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()},
            observation=observation,
            action=action,
            guidance=form.guidance,
            precision=precision,
            parity=_UNMEASURED,
            provenance={**_provenance(model), **_knob(model, form), **(provenance or {})},
            encoder=encoder,
        )
        errors = form.errors(Bundle.from_files({MANIFEST: manifest.to_bytes(), **files}, str(path)), seen)
        accepted = _accepted(errors, precision, max_int8_error, form.advice, str(path))
        by_omega = {f"{omega:g}": error.action_error for omega, error in errors.items() if omega is not None}
        more = {"action_error_by_omega": by_omega} if by_omega else {}
        manifest = replace(manifest, parity=accepted, provenance={**manifest.provenance, **more})
        bundle = Bundle.from_files({MANIFEST: manifest.to_bytes(), **files}, str(path))
        GuidedPolicy.from_bundle(bundle)
        write_bundle(bundle, Path(path))
        manifests[precision] = manifest
    return manifests


def _in_8_bits(
    form: ExportedForm, encoding: Encoding | None, networks: Mapping[str, bytes], fitted: Seen
) -> dict[str, bytes]:
    if encoding is None:
        return form.in_8_bits(networks, fitted.flat)
    networks = {**networks, ENCODER: encoding.in_8_bits(networks[ENCODER], fitted)}
    try:
        return {**networks, **form.in_8_bits(networks, encoding.features(fitted))}
    except NothingToRoundError:
        return networks  # the encoder is what is large


def _accepted(
    errors: Mapping[float | None, Parity], precision: Precision, max_int8_error: float, advice: str, where: str
) -> Parity:
    """The largest errors of all, and the tolerances for the robot's runtime.

    :raises ValueError: an error is larger than accepted.
    """
    omega, worst = max(errors.items(), key=lambda item: item[1].action_error)
    action, q = worst.action_error, max(one.q_error for one in errors.values())
    accepted = ACTION_TOLERANCE if precision == "fp32" else max_int8_error
    if not action <= accepted:
        at = "" if omega is None else f" at ω = {omega:g}"
        raise ValueError(
            f"{where}: not written, because the {precision} bundle's actions differ from the model's by {action:.2g} "
            f"of their range{at}, expected at most {accepted:g}{f'; {advice}' if precision == 'int8' else ''}"
        )
    accepted = Q_TOLERANCE if precision == "fp32" else LARGEST_INT8_Q_ERROR
    if not q <= accepted:
        raise ValueError(
            f"{where}: not written, because the {precision} bundle's Q-values differ from the model's by {q:.2g} of "
            f"max(1, |q|), expected at most {accepted:g}{f'; {advice}' if precision == 'int8' else ''}"
        )
    if precision == "int8":
        return Parity(action, max(INT8_MARGIN * action, ACTION_TOLERANCE), q, max(INT8_MARGIN * q, Q_TOLERANCE))
    return Parity(action, ACTION_TOLERANCE, q, Q_TOLERANCE)


def exported_form(model: OfflineAlgorithm, omega_range: tuple[float, float] | None = None) -> ExportedForm:
    """Copies of the acting networks, in the form needed to write a bundle.

    :param omega_range: see :func:`export_bundle`.
    :raises ValueError: observations are images of floats, bounds or parameters are not finite, normalisation statistics
        are missing, bundles do not support this form of policy, or ``omega_range`` is given for a policy without
        greediness.
    """
    for key, space in flat_order(model.observation_space).items():
        name = "observations" if key is None else f"the observation {key!r}"
        if len(space.shape or ()) > 2:
            raise ValueError(
                f"{name} are {space.dtype} of shape {space.shape} from {np.min(space.low)} to {np.max(space.high)}: "  # type: ignore[attr-defined]
                "bundles hold policies on vectors and on pictures, uint8 from 0 to 255"
            )
    statistics = model.observation_statistics
    space = model.action_space
    assert isinstance(space, spaces.Box)
    bounds = _inside(space)
    policy: Any = model.policy
    form = copy.deepcopy(policy.acting_form())
    if not isinstance(form, ActingForm):
        held = ", ".join(kind.__name__ for kind in get_args(ActingForm))
        raise ValueError(
            f"{type(model).__name__} acts as a {type(form).__name__}, expected one of the forms that bundles hold: "
            f"{held}"
        )
    for network in (form.actor, form.critic):
        network.cpu().eval()
        for name, parameter in network.named_parameters():
            if not bool(parameter.isfinite().all()):
                raise ValueError(
                    f"the model's parameter {name} is not finite, expected finite numbers only: training has diverged, "
                    "export an earlier checkpoint"
                )
    sights = picture_order(model.observation_space)
    source: Source[Any] = Source(form, statistics, *bounds, is_encoded=bool(sights))
    omega = omega_of(model, form, omega_range)
    if isinstance(form, Deterministic):
        return ExportedDeterministic(model, source)
    return (ExportedDiffusion if isinstance(form, Diffusion) else ExportedPair)(model, source, omega)


def _inside(space: spaces.Box) -> tuple[np.ndarray, np.ndarray]:
    """The bounds in single precision, rounded inwards, so that the graph's actions are never outside the space."""
    low, high = (bound.reshape(-1).astype(np.float64) for bound in (space.low, space.high))
    single_low, single_high = low.astype(np.float32), high.astype(np.float32)
    single_low = np.where(single_low < low, np.nextafter(single_low, np.float32(np.inf)), single_low)
    single_high = np.where(single_high > high, np.nextafter(single_high, np.float32(-np.inf)), single_high)
    if not (np.isfinite(single_low).all() and np.isfinite(single_high).all() and (single_low < single_high).all()):
        raise ValueError(f"the action space is {space}, expected finite bounds with low < high in every dimension")
    return single_low.astype(np.float32), single_high.astype(np.float32)


def _observation(model: OfflineAlgorithm, source: Source[ActingForm], names: Sequence[str] | None) -> ObservationSpec:
    order = flat_order(model.observation_space)
    size = sum(map(flat_size, order.values()))
    if names is None:
        names = [f"{key or 'observation'}_{index}" for key, space in order.items() for index in range(flat_size(space))]
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
    return Normalization(mean, std, min(statistics.clip, LARGEST))


def _action(model: OfflineAlgorithm, source: Source[ActingForm], names: Sequence[str] | None) -> ActionSpec:
    size = len(source.low)
    names = [f"action_{index}" for index in range(size)] if names is None else names
    _require_names("action_names", names, size)
    low, high = (tuple(map(float, bound)) for bound in (source.low, source.high))
    assert isinstance(model.action_space, spaces.Box)
    return ActionSpec(size, model.action_space.shape, tuple(names), low, high)


def _require_names(argument: str, names: Sequence[str], size: int) -> None:
    if len(names) != size or len(set(names)) != size:
        raise ValueError(f"{argument}: found {len(names)} names, {len(set(names))} different, expected {size}")


def _knob(model: OfflineAlgorithm, form: ExportedForm) -> dict[str, Any]:
    """What the algorithm calls the number that is turned, where that is not ω itself."""
    sampled = form.source.form
    if not isinstance(sampled, GuidedConditional) or form.guidance is None:
        return {}
    (knob,) = (knob for knob in model.policy.knobs if not knob.whole)
    values = {name: omega + sampled.more_than_omega for name, omega in vars(form.guidance.omega).items()}
    more = {"name": knob.name, "title": knob.title, "meaning": knob.hint, "more_than_omega": sampled.more_than_omega}
    return {"knob": {**more, **values}}


def _provenance(model: OfflineAlgorithm) -> dict[str, Any]:
    """Facts about the model's training; only those that are still known after saving and loading."""
    return {
        "algorithm": type(model).__name__,
        "timesteps": model.num_timesteps,
        "seed": model.seed,
        "parameters_sha256": checksum_of_parameters(model.policy),
        "hyperparameters": {**model.hyperparameters(), "net_arch": model.policy.net_arch},
        "packages": {name: version(name) for name in ("dipole-sb3", "torch", "stable-baselines3", "onnxscript")},
    }
