"""Manifests that would switch their own check off: consistent in themselves, hashed anew, and refused all the same."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dipole_runtime import Bundle, GuidedPolicy, Manifest
from dipole_runtime.manifest import CRITIC, DETERMINISTIC, MANIFEST, VECTORS, OmegaRange
from dipole_runtime.tolerances import ACTION_TOLERANCE, LARGEST_OF_PLANS, LARGEST_TOLERANCES, Q_TOLERANCE
from dipole_runtime.vectors import ActionVectors
from onnx import ModelProto, numpy_helper
from runtime_helpers import refusal_of
from small_bundles import (
    SmallPolicy,
    edited,
    make_action_vectors,
    make_deterministic_files,
    make_policy,
    make_vectors,
    rehashed,
)

Files = dict[str, bytes]
LARGEST = float(np.finfo(np.float32).max)


def manifest_of(files: Files) -> Manifest:
    return Manifest.from_bytes(files[MANIFEST], "the original")


def loads(files: Files) -> None:
    GuidedPolicy.from_bundle(Bundle.from_files(files, "robot's bundle"))


class TestTolerances:
    @pytest.mark.parametrize("precision", ["fp32", "int8"])
    @pytest.mark.parametrize("name", ["action", "q"])
    def test_none_is_larger_than_an_exporter_writes(self, any_files: Files, precision: str, name: str) -> None:
        is_plan = manifest_of(any_files).policy == "plan"
        if is_plan and (precision, name) != ("fp32", "action"):
            pytest.skip("a plan bundle has neither int8 nor critics")
        largest = LARGEST_OF_PLANS if is_plan else LARGEST_TOLERANCES[precision]
        parity, most = manifest_of(any_files).parity, getattr(largest, name)
        field = f"{name}_tolerance"
        loads(rehashed(any_files, precision=precision, parity=replace(parity, **{field: most})))
        for found in (np.nextafter(most, 1.0), 1.0, 1e30, LARGEST):
            changed = replace(parity, **{field: float(found)})
            refusal_of(
                rehashed(any_files, precision=precision, parity=changed),
                f"parity.{field}: found {float(found)}, expected at most {most} for {precision}",
            )

    def test_what_they_mean(self) -> None:
        """A policy that stands still in the middle is off by half the range at most, a critic of 0 by all of q."""
        assert LARGEST_TOLERANCES["fp32"].action == ACTION_TOLERANCE == 1e-4
        assert LARGEST_TOLERANCES["fp32"].q == Q_TOLERANCE == 1e-3
        assert LARGEST_TOLERANCES["fp32"].action < LARGEST_TOLERANCES["int8"].action < 0.5
        assert LARGEST_TOLERANCES["fp32"].q < LARGEST_TOLERANCES["int8"].q < 1

    def test_another_policy_does_not_pass_by_its_own_word(self, deterministic_files: Files) -> None:
        other = {**deterministic_files, DETERMINISTIC: make_deterministic_files(make_policy(seed=9))[DETERMINISTIC]}
        parity = manifest_of(other).parity
        refusal_of(rehashed(other), "another action")
        refusal_of(rehashed(other, parity=replace(parity, action_tolerance=1e30, q_tolerance=1e30)), "at most 0.0001")


def stretched(files: Files, factor: float) -> Files:
    """The same files with the action's range in the manifest a multiple of what it was."""
    action = manifest_of(files).action
    low, high = (tuple(float(np.float32(factor * bound)) for bound in bounds) for bounds in (action.low, action.high))
    return rehashed(files, action=replace(action, low=low, high=high))


class TestRangeOfActions:
    """Errors are shares of it: the wider it is, the smaller they seem."""

    @pytest.mark.parametrize("factor", [1.01, 10.0, 1e6, 1e30, 1.7e38])
    def test_wider_than_the_policys(self, any_files: Files, factor: float) -> None:
        words = {"pair": "the two networks", "deterministic": "action.low", "diffusion": "the noise predictor"}
        form = manifest_of(any_files).policy
        if form == "plan":
            pytest.skip("errors of plans are metres and radians, whatever their bounds")
        refusal_of(stretched(any_files, factor), words[form])

    @pytest.mark.parametrize("factor", [0.99, 0.5, 1e-30])
    def test_narrower_than_the_policys(self, any_files: Files, factor: float) -> None:
        if manifest_of(any_files).policy == "plan":
            factor *= 0.1  # its plans do not reach their bounds
        refusal_of(stretched(any_files, factor))

    @pytest.mark.parametrize("name", ["low", "high"])
    def test_one_end_alone(self, deterministic_files: Files, name: str) -> None:
        action = manifest_of(deterministic_files).action
        bounds = tuple(1.5 * bound for bound in getattr(action, name))
        refusal_of(rehashed(deterministic_files, action=replace(action, **{name: bounds})), f"action.{name}")

    def test_trainers_actions_outside_of_it(self, small: SmallPolicy, deterministic_files: Files) -> None:
        vectors = make_action_vectors(small)
        actions = vectors.actions.copy()
        actions[1, 1] = small.high[1] * np.float32(1.01)
        changed = ActionVectors(vectors.observations, actions, vectors.q)
        refusal_of(rehashed({**deterministic_files, VECTORS: changed.to_bytes()}), VECTORS, "for 'joint_1', expected")

    def test_damage_that_a_wide_range_would_hide(self, deterministic_files: Files) -> None:
        def double(model: ModelProto) -> None:
            tensor = next(one for one in model.graph.initializer if numpy_helper.to_array(one).ndim == 2)
            tensor.CopyFrom(numpy_helper.from_array(2 * numpy_helper.to_array(tensor), tensor.name))

        damaged = edited(edited(deterministic_files, DETERMINISTIC, double), CRITIC, lambda model: None)
        refusal_of(damaged, "another action")
        refusal_of(stretched(damaged, 1e6), "action.low")


class TestOmega:
    """Test vectors are at both ends of the range: what lies beyond was never compared with the trainer."""

    @pytest.mark.parametrize(
        ("omega", "name"),
        [
            (OmegaRange(0.5, -1.0, 4.001), "high"),
            (OmegaRange(0.5, -1.0, 1e6), "high"),
            (OmegaRange(5.0, 5.0, 6.0), "high"),
            (OmegaRange(1e6, 1e6, 1e6), "high"),
        ],
    )
    def test_a_range_beyond_the_vectors(self, files: Files, omega: OmegaRange, name: str) -> None:
        words = f"omegas are -1 to 4, expected them to reach the manifest's omega.{name} {getattr(omega, name):g}"
        refusal_of(rehashed(files, omega=omega), VECTORS, words)

    def test_a_range_below_the_vectors(self, small: SmallPolicy, files: Files) -> None:
        vectors = make_vectors(replace(small, omegas=(0.0, 0.5, 4.0)))
        refusal_of(rehashed({**files, VECTORS: vectors.to_bytes()}), VECTORS, "omegas are 0 to 4", "omega.low -1")

    def test_a_smaller_range(self, files: Files) -> None:
        loads(rehashed(files, omega=OmegaRange(0.5, 0.0, 1.0)))


class TestNumbersOfThings:
    @pytest.mark.parametrize("count", [1, 2, 4, 4096])
    def test_candidates(self, files: Files, count: int) -> None:
        refusal_of(rehashed(files, num_candidates=count), VECTORS, "noise has shape (3, 3, 2), expected")

    @pytest.mark.parametrize("steps", [1, 3, 1000])
    def test_flow_steps(self, files: Files, steps: int) -> None:
        refusal_of(rehashed(files, flow_steps=steps), "the two networks", "another action")

    @pytest.mark.parametrize("of", ["observation", "action"])
    @pytest.mark.parametrize("size", [1, 4, 4096])
    def test_sizes(self, any_files: Files, of: str, size: int) -> None:
        """With everything else in the manifest as that size demands."""
        manifest = manifest_of(any_files)
        names = tuple(f"n{index}" for index in range(size))
        if of == "observation":
            part = replace(manifest.observation.parts[0], shape=(size,), normalization=None)
            changed: Any = replace(manifest.observation, size=size, names=names, parts=(part,))
        else:
            bounds = {"low": (-1.0,) * size, "high": (1.0,) * size}
            changed = replace(manifest.action, size=size, shape=(size,), names=names, **bounds)
        # Which parts and poses a plan is made of is known before the graphs are read.
        refusal_of(rehashed(any_files, **{of: changed}), "found" if manifest.policy == "plan" else "has shape")


def numbers_in(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the numbers of a manifest are; its provenance is free."""
    if isinstance(value, dict | list):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            if (*place, key) != ("provenance",):
                yield from numbers_in(part, (*place, key))
    elif isinstance(value, int | float):
        yield place


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf"), -1e39, 1e39, True, "1", None, [1.0]])
def test_what_is_no_number_of_a_policy(any_files: Files, number: Any) -> None:
    """In the place of any number of the manifest, with the right checksum for it."""
    good = json.loads(any_files[MANIFEST])
    places = list(numbers_in(good))
    assert len(places) > 20
    for place in places:
        value = copy.deepcopy(good)
        inner = value
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = number
        rest = {key: part for key, part in value.items() if key != "checksum"}
        value["checksum"] = hashlib.sha256(_text(rest)).hexdigest()
        refusal_of({**any_files, MANIFEST: _text(value)}, MANIFEST, str(place[0]))


@pytest.mark.parametrize("number", [-1.0, -1e-9, -1])
def test_what_may_not_be_negative(any_files: Files, number: float) -> None:
    """Tolerances, errors, sizes and deviations; bounds, means and ω may be."""
    good = json.loads(any_files[MANIFEST])
    signed = {"low", "high", "mean", "default"}
    for place in numbers_in(good):
        if signed & set(place):
            continue
        value = copy.deepcopy(good)
        inner = value
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = number
        refusal_of({**any_files, MANIFEST: _text(value)}, MANIFEST, f"found {number!r}")


def _text(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
