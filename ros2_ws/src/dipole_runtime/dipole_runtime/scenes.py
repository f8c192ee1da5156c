"""What a plan bundle's policy sees, and its two graphs: a scene becomes tokens once, and those a plan for each ω."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dipole_runtime.errors import GuidedPolicyError, shown
from dipole_runtime.manifest import PLANNER, SCENE_ENCODER, Manifest
from dipole_runtime.observations import ObservationReader, observation_of
from dipole_runtime.plan_spec import ACCELERATION, CAMERAS, COMMAND, HISTORY, NOISE_OF_POSE, VELOCITY, PlanSpec
from dipole_runtime.sessions import Floats, Network, Provider

if TYPE_CHECKING:
    from dipole_runtime.bundle import Bundle
    from dipole_runtime.vectors import PlanVectors

Scene = Mapping[str, NDArray[Any]]
"""Checked inputs of the graphs, by name: cameras, velocity, acceleration, command, history."""


class SceneReader:
    """Checks the observations of a plan bundle: Dicts with the pictures and the parts that the manifest names.

    :param manifest: of a plan bundle.
    """

    def __init__(self, manifest: Manifest, plan: PlanSpec) -> None:
        self._plan = plan
        self._spec = manifest.observation
        self._read_others = ObservationReader(manifest.observation).read
        self._shape = (len(plan.cameras), *plan.picture_shape)

    def read(self, observation: Any) -> Scene:
        """Observation → the graphs' inputs; the caller's pictures themselves, not a copy, if they are contiguous.

        :raises GuidedPolicyError: other keys, shapes or types, NaN or infinity, or a command that is none of the
            manifest's.
        """
        if not isinstance(observation, Mapping) or CAMERAS not in observation:
            found = f"has no {CAMERAS!r}" if isinstance(observation, Mapping) else f"is {type(observation).__name__}"
            keys = ", ".join([CAMERAS, *(str(part.key) for part in self._spec.parts)])
            raise GuidedPolicyError(f"observation {found}, expected a mapping with the keys {keys}")
        pictures = observation[CAMERAS]
        if not isinstance(pictures, np.ndarray) or pictures.dtype != np.uint8 or pictures.shape != self._shape:
            kind = (
                f"type {pictures.dtype} and shape {pictures.shape}"
                if isinstance(pictures, np.ndarray)
                else shown(type(pictures).__name__)
            )
            raise GuidedPolicyError(f"observation {CAMERAS!r} has {kind}, expected uint8 of shape {self._shape}")
        others = self._read_others({key: value for key, value in observation.items() if key != CAMERAS})
        return self._scene(pictures, others[0])

    def of_vector(self, pictures: NDArray[np.uint8], flat: Floats) -> Scene:
        """The same for arrays of the test vectors."""
        return self._scene(pictures, flat)

    def _scene(self, pictures: NDArray[np.uint8], flat: Floats) -> Scene:
        parts = observation_of(self._spec, flat)
        assert isinstance(parts, dict)
        command = float(parts[COMMAND])
        if command not in range(len(self._plan.commands)):
            known = ", ".join(f"{index} ({name})" for index, name in enumerate(self._plan.commands))
            raise GuidedPolicyError(f"observation {COMMAND!r} is {command:g}, expected one of {known}")
        return {
            CAMERAS: np.ascontiguousarray(pictures),
            **{key: parts[key] for key in (VELOCITY, ACCELERATION, HISTORY)},
            COMMAND: np.array(command, np.int64),
        }


def scene_of(manifest: Manifest, vectors: PlanVectors, index: int) -> Scene:
    """The scene of one of the test vectors.

    :raises GuidedPolicyError: its command is none of the manifest's.
    """
    assert manifest.plan is not None
    return SceneReader(manifest, manifest.plan).of_vector(vectors.cameras[index], vectors.observations[index])


class SceneNetworks:
    """Both graphs of a plan bundle; safe to run from several threads at once.

    :param bundle: a checked plan bundle.
    :param threads: number of threads for one run, at least 1.
    :param providers: see :class:`Network`.
    :raises GuidedPolicyError: ONNX Runtime refuses one of them.
    """

    def __init__(self, bundle: Bundle, threads: int = 1, providers: Sequence[Provider] | None = None) -> None:
        self._encoder, self._planner = (
            Network(name, bundle.files[name], threads, providers) for name in (SCENE_ENCODER, PLANNER)
        )

    def plans(
        self, scene: Scene, noise: Floats, omegas: Floats, options: onnxruntime.RunOptions | None = None
    ) -> Floats:
        """The encoder once, then the planner for all ω.

        :param noise: [1, noise].
        :param omegas: [W].
        :return: [W, act], metres and radians.
        """
        seen = {name: scene[name] for name in (CAMERAS, VELOCITY, ACCELERATION, COMMAND)}
        (tokens,) = self._encoder.run(["tokens"], seen, options)
        inputs = {
            "tokens": tokens,
            HISTORY: scene[HISTORY],
            "noise": noise.reshape(-1, NOISE_OF_POSE),
            "omega": omegas,
        }
        (plans,) = self._planner.run(["plan"], inputs, options)
        return plans.reshape(len(omegas), -1)
