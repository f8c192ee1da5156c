"""From the robot program's observation to the flat vector that the graphs take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
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
        self._keys = dict.fromkeys(part.key for part in spec.parts).keys()
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
        require_keys(observation, self._keys)
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


def require_keys(observation: Any, keys: Set[str | None]) -> None:
    """Refuses everything but a mapping with exactly these keys.

    :raises GuidedPolicyError: naming the first key that is missing or unknown.
    """
    if isinstance(observation, Mapping) and observation.keys() == keys:
        return
    if not isinstance(observation, Mapping):
        found = f"is {shown(type(observation).__name__)}"
    elif missing := [key for key in keys if key not in observation]:
        found = f"has no {shown(missing[0])}"
    else:
        found = f"has the unknown key {shown(next(key for key in observation if key not in keys))}"
    expected = ", ".join(shown(key, 30) for key in list(keys)[:6])
    raise GuidedPolicyError(f"observation {found}, expected a mapping with the keys {expected}")


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
