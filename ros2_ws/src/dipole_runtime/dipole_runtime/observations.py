"""From the robot program's observation to the flat vector that the graphs take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Any

import numpy as np

from dipole_runtime.errors import GuidedPolicyError, shown
from dipole_runtime.manifest import ObservationPart, ObservationSpec
from dipole_runtime.sessions import Floats

_FLOAT = np.dtype(np.float32)


def all_finite(values: Floats) -> bool:
    """Whether there is neither NaN nor infinity; fast, because every decision calls it three times."""
    # One product in C instead of an array of booleans; if it overflows without an infinity, the booleans decide.
    return isfinite(np.vdot(values, values)) or bool(np.isfinite(values).all())


class ObservationReader:
    """Checks and flattens observations.

    :param spec: the observation of the manifest.
    """

    def __init__(self, spec: ObservationSpec) -> None:
        self._spec = spec
        self._shape = (spec.size,)
        self._keys = frozenset(part.key for part in spec.parts)
        self.read: Callable[[Any], Floats] = self._read_mapping if spec.is_dict else self._read_array
        """Observation → float32 of shape [1, size]; the caller's array itself when it is one already.

        Raises GuidedPolicyError for other keys or shapes, what are no real numbers, and NaN or infinity, also when it
        only arises in the cast to float32.
        """

    def _read_array(self, observation: Any) -> Floats:
        # The usual input of a control loop needs no further checks.
        if type(observation) is np.ndarray and observation.dtype == _FLOAT and observation.shape == self._shape:
            return self._require_finite(observation[None])
        if isinstance(observation, Mapping):
            raise GuidedPolicyError(f"observation is a mapping of {len(observation)} keys, expected one array")
        return self._require_finite(_flat(observation, self._spec.parts[0])[None])

    def _read_mapping(self, observation: Any) -> Floats:
        if not isinstance(observation, Mapping) or observation.keys() != self._keys:
            raise self._other_keys(observation)
        parts = [_flat(observation[part.key], part) for part in self._spec.parts]
        return self._require_finite(np.concatenate(parts)[None])

    def _require_finite(self, flat: Floats) -> Floats:
        if all_finite(flat):
            return flat
        index = int(np.argmin(np.isfinite(flat[0])))
        raise GuidedPolicyError(
            f"observation is {flat[0, index]} for {shown(self._spec.names[index])} (element {index}), "
            "expected a finite float32"
        )

    def _other_keys(self, observation: Any) -> GuidedPolicyError:
        expected = ", ".join(shown(part.key, 30) for part in self._spec.parts[:6])
        if not isinstance(observation, Mapping):
            found = f"is {shown(type(observation).__name__)}"
        elif missing := [part.key for part in self._spec.parts if part.key not in observation]:
            found = f"has no {shown(missing[0])}"
        else:
            unknown = next(key for key in observation if key not in self._keys)
            found = f"has the unknown key {shown(unknown)}"
        return GuidedPolicyError(f"observation {found}, expected a mapping with the keys {expected}")


def observation_of(spec: ObservationSpec, flat: Floats) -> Floats | dict[str, Floats]:
    """The inverse: from the flat vector [size] to the robot program's observation, all float32."""
    parts, start = {}, 0
    for part in spec.parts:
        parts[part.key] = flat[start : start + part.size].reshape(part.shape)
        start += part.size
    return parts[None] if None in parts else {str(key): value for key, value in parts.items()}


def _flat(value: Any, part: ObservationPart) -> Floats:
    array: np.ndarray[Any, Any]
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:  # such as lists of different lengths
        raise _unlike(part, f"{shown(type(value).__name__)} that is no array") from error
    if array.dtype.kind not in "fiub":
        raise _unlike(part, f"type {array.dtype}")
    if array.shape not in (part.shape, (part.size,)):
        raise _unlike(part, f"shape {array.shape}")
    if array.dtype != _FLOAT:
        # A number that is too large becomes infinite and is refused later, with its name.
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
    return array.reshape(-1)


def _unlike(part: ObservationPart, found: str) -> GuidedPolicyError:
    name = "observation" if part.key is None else f"observation {shown(part.key)}"
    or_flat = "" if part.shape == (part.size,) else f" or ({part.size},)"
    return GuidedPolicyError(f"{name} has {found}, expected real numbers of shape {part.shape}{or_flat}")
