"""Checks that a schema cannot express: whether a manifest's fields agree with each other."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from dipole_runtime.errors import shown
from dipole_runtime.pictures import encoder_contradictions
from dipole_runtime.plan_spec import plan_contradictions
from dipole_runtime.tolerances import LARGEST_OF_PLANS, LARGEST_TOLERANCES

if TYPE_CHECKING:
    from dipole_runtime.manifest import Manifest

MAX_NOISE = 4096 * 4096
"""Largest number of numbers that are drawn for a decision."""
_SMALLEST_BETA = 2.0**-52
"""Of a diffusion policy's step 1: 1 − β must differ from 1, because √(1 − ᾱ) divides."""
MAX_BUNDLE_SIZE = 256 << 20
"""Largest size of all files together, in bytes."""


def contradictions(manifest: Manifest) -> Iterator[str]:
    """Descriptions of the contradictions, the most important ones first."""
    observation, action, parity = manifest.observation, manifest.action, manifest.parity
    keys = [part.key for part in observation.parts]
    if not keys and manifest.encoder is None:
        yield "at observation.parts: found none, expected at least 1 where there are no pictures"
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
    guidance = manifest.guidance
    drawn = 0 if guidance is None else guidance.num_candidates * manifest.noise_size
    if drawn > MAX_NOISE:
        yield f"at num_candidates: found {drawn} numbers of noise for a decision, expected at most {MAX_NOISE}"
    if manifest.plan is not None:
        yield from plan_contradictions(manifest, manifest.plan)
    if manifest.encoder is not None:
        yield from encoder_contradictions(manifest, manifest.encoder)
    betas = () if guidance is None else guidance.betas
    if betas and betas[0] < _SMALLEST_BETA:
        yield f"at betas[0]: found {betas[0]}, expected at least {_SMALLEST_BETA:.2g}"
    omega = manifest.omega
    if omega is not None and not omega.low <= omega.default <= omega.high:
        yield f"at omega: found low {omega.low}, default {omega.default}, high {omega.high}, expected that order"
    largest = LARGEST_TOLERANCES[manifest.precision] if manifest.plan is None else LARGEST_OF_PLANS
    for name, error, tolerance, most in (
        ("action", parity.action_error, parity.action_tolerance, largest.action),
        ("q", parity.q_error, parity.q_tolerance, largest.q),
    ):
        # With a larger one, the test vectors would prove nothing.
        if tolerance > most:
            yield f"at parity.{name}_tolerance: found {tolerance}, expected at most {most} for {manifest.precision}"
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
