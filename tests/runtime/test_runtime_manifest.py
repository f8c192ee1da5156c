"""The manifest: what is written is read again, and nothing else is."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import replace
from typing import Any

import jsonschema
import numpy as np
import pytest
from dipole_runtime import GuidedPolicyError, Manifest
from dipole_runtime.manifest import (
    MANIFEST,
    NETWORK_FILES,
    VECTORS,
    ActionSpec,
    FileEntry,
    Guidance,
    Normalization,
    ObservationPart,
    ObservationSpec,
    OmegaRange,
    Parity,
)
from dipole_runtime.plan_spec import PlanSpec
from dipole_runtime.schema import first_problem, manifest_schema
from dipole_runtime.tolerances import ACTION_TOLERANCE
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from runtime_helpers import assert_one_sentence
from small_bundles import BETAS, FORMS, PAIR_DATA
from small_plans import plan_manifest

WHERE = "/robot/the.dipole"

names = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=12)
numbers = st.floats(-1e6, 1e6)
positive = st.floats(1e-6, 1e6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def parts_of_observations(draw: st.DrawFn, key: str | None) -> ObservationPart:
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=3)))
    size = int(np.prod(shape))
    vectors = st.lists(numbers, min_size=size, max_size=size)
    deviations = st.lists(positive, min_size=size, max_size=size)
    normalization = draw(st.none() | st.builds(Normalization, vectors.map(tuple), deviations.map(tuple), positive))
    return ObservationPart(key, shape, draw(st.sampled_from(["float32", "float64", "int8"])), "Box", normalization)


@st.composite
def manifests(draw: st.DrawFn) -> Manifest:
    keys: list[str | None] = draw(st.just([None]) | st.lists(names, min_size=1, max_size=3, unique=True))
    parts = tuple(draw(parts_of_observations(key)) for key in keys)
    size = sum(part.size for part in parts)
    shape = tuple(draw(st.lists(st.integers(1, 3), max_size=2)))
    actions = int(np.prod(shape))
    low = draw(st.lists(numbers, min_size=actions, max_size=actions))
    omegas = sorted(draw(st.lists(st.floats(-1, 100), min_size=3, max_size=3)))
    error, tolerance = sorted(draw(st.lists(st.floats(0, ACTION_TOLERANCE), min_size=2, max_size=2)))
    entries = st.builds(FileEntry, st.text("0123456789abcdef", min_size=64, max_size=64), st.integers(1, 1 << 20))
    form, guidance = draw(st.sampled_from(FORMS)), None
    if form == "pair":
        range_of_omega = OmegaRange(omegas[1], omegas[0], omegas[2])
        guidance = Guidance(draw(st.integers(1, 1000)), draw(st.integers(1, 4096)), range_of_omega)
    elif form == "diffusion":
        betas = draw(st.lists(st.floats(2.0**-52, 1, exclude_max=True), min_size=1, max_size=8))
        guidance = Guidance(len(betas), draw(st.integers(1, 4096)), OmegaRange(0.0, 0.0, 0.0), tuple(betas))
    elif form == "plan":
        return draw(plan_manifests(entries))
    names_of_files = (*NETWORK_FILES[form], VECTORS)
    return Manifest(
        files={name: draw(entries) for name in names_of_files},
        observation=ObservationSpec(size, unique(draw, size), parts),
        action=ActionSpec(actions, shape, unique(draw, actions), tuple(low), tuple(value + 1 for value in low)),
        guidance=guidance,
        precision=draw(st.sampled_from(["fp32", "int8"])),
        parity=Parity(error, tolerance, error, tolerance),
        provenance=draw(st.dictionaries(names, json_values, max_size=4)),
    )


@st.composite
def plan_manifests(draw: st.DrawFn, entries: st.SearchStrategy[FileEntry]) -> Manifest:
    """Of other sizes than the small one's."""
    small = plan_manifest({})
    few = st.lists(names.filter(str.isprintable), min_size=1, max_size=4, unique=True).map(tuple)
    sides, tokens = st.integers(1, 2000), st.integers(1, 65536)
    plan = PlanSpec(draw(few), draw(sides), draw(sides), draw(few), draw(tokens), draw(tokens), draw(st.floats(0.1, 2)))
    omega = draw(st.floats(-1, 100))
    return replace(
        small,
        files={name: draw(entries) for name in (*NETWORK_FILES["plan"], VECTORS)},
        guidance=Guidance(draw(st.integers(1, 1000)), 1, OmegaRange(omega, -1.0, omega)),
        plan=plan,
    )


def unique(draw: st.DrawFn, size: int) -> tuple[str, ...]:
    return tuple(draw(st.lists(names, min_size=size, max_size=size, unique=True)))


@pytest.fixture(scope="module")
def good(files: dict[str, bytes]) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(files[MANIFEST])
    return value


def canonical(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=True) + "\n").encode(
        errors="surrogatepass"
    )


def refusal(data: bytes) -> str:
    with pytest.raises(GuidedPolicyError) as raised:
        Manifest.from_bytes(data, WHERE)
    assert_one_sentence(raised.value, WHERE, MANIFEST)
    return str(raised.value)


class TestRoundTrip:
    @given(manifests())
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    def test_what_is_written_is_read_again(self, manifest: Manifest) -> None:
        data = manifest.to_bytes()
        again = Manifest.from_bytes(data, WHERE)
        assert again == manifest
        assert again.to_bytes() == data
        jsonschema.validate(json.loads(data), dict(manifest_schema()))

    def test_the_checksum_is_that_of_the_rest(self, good: dict[str, Any], files: dict[str, bytes]) -> None:
        rest = {key: value for key, value in good.items() if key != "checksum"}
        assert good["checksum"] == hashlib.sha256(canonical(rest)).hexdigest()
        assert Manifest.from_bytes(files[MANIFEST], WHERE).checksum == good["checksum"]

    def test_the_same_values_in_another_form_are_refused(self, good: dict[str, Any]) -> None:
        assert "canonically" in refusal(json.dumps(good).encode())
        assert "canonically" in refusal(canonical(good).rstrip())
        assert "canonically" in refusal(canonical(good).replace(b'"opset": 20', b'"opset": 20,\n  "opset": 20'))


class TestSchema:
    def test_it_is_a_schema(self) -> None:
        jsonschema.Draft202012Validator.check_schema(dict(manifest_schema()))
        assert manifest_schema()["$schema"] == jsonschema.Draft202012Validator.META_SCHEMA["$id"]

    def test_ours_accepts_what_it_accepts(self, any_files: dict[str, bytes]) -> None:
        assert first_problem(json.loads(any_files[MANIFEST]), manifest_schema()) is None

    @given(data=st.data())
    @settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_ours_agrees_with_a_complete_validator(
        self,
        files: dict[str, bytes],
        deterministic_files: dict[str, bytes],
        diffusion_files: dict[str, bytes],
        plan_files: dict[str, bytes],
        data: st.DataObject,
    ) -> None:
        good = json.loads(
            data.draw(st.sampled_from([files, deterministic_files, diffusion_files, plan_files]))[MANIFEST]
        )
        value = data.draw(mutations(good))
        # Of NaN, which JSON does not have, the complete one holds that it is at least -1.
        assume(not any(number != number for number in _floats(value)))
        complete = jsonschema.Draft202012Validator(dict(manifest_schema())).is_valid(value)
        assert (first_problem(value, manifest_schema()) is None) == complete


def _floats(value: Any) -> list[float]:
    """All of them, at any depth."""
    if isinstance(value, dict | list):
        return [number for part in (value.values() if isinstance(value, dict) else value) for number in _floats(part)]
    return [value] if isinstance(value, float) else []


replacements: st.SearchStrategy[Any] = st.one_of(
    json_values,
    st.floats(),
    st.sampled_from([0, 1, -1, 1.0, 20, 20.0, True, False, None, "", "x" * 129, [], {}, 10**400, -1.5, 65537, 1e39]),
    st.text("0123456789abcdef", min_size=63, max_size=65),
    st.lists(st.integers(0, 3) | names, max_size=4),
)


@st.composite
def mutations(draw: st.DrawFn, value: Any) -> Any:
    """A copy with some values replaced, removed or added, anywhere in it."""
    result = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 2))):
        place: Any = result
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and draw(st.integers(0, 3)):
                place = place[key]
                continue
            kind = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
            if kind == "replace":
                place[key] = draw(replacements)
            elif kind == "remove":
                del place[key]
            elif isinstance(place, dict):
                place[draw(names)] = draw(replacements)
            else:
                place.append(draw(replacements))
            break
    return result


class TestFuzz:
    """Only GuidedPolicyError leaves the parser, and it says it in one line."""

    @given(st.binary(max_size=300))
    @settings(max_examples=200, deadline=None)
    def test_random_bytes(self, data: bytes) -> None:
        refusal(data)

    @given(json_values | st.dictionaries(st.sampled_from(["format", "files", "format_version"]), json_values))
    @settings(max_examples=200, deadline=None)
    def test_random_json(self, value: Any) -> None:
        refusal(canonical(value))

    @given(data=st.data())
    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_mutated_manifests(
        self,
        files: dict[str, bytes],
        deterministic_files: dict[str, bytes],
        diffusion_files: dict[str, bytes],
        plan_files: dict[str, bytes],
        data: st.DataObject,
    ) -> None:
        good = json.loads(
            data.draw(st.sampled_from([files, deterministic_files, diffusion_files, plan_files]))[MANIFEST]
        )
        value = data.draw(mutations(good))
        try:
            content = canonical(value)
        except ValueError:  # more digits than Python prints
            return
        if content != canonical(good):
            refusal(content)

    @given(st.integers(0, 10_000), st.integers(0, 255))
    @settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_flipped_bytes(self, files: dict[str, bytes], place: int, value: int) -> None:
        data = bytearray(files[MANIFEST])
        place %= len(data)
        if data[place] != value:
            data[place] = value
            refusal(bytes(data))

    @pytest.mark.parametrize(
        "seed",
        [
            b'"seed": ' + b"[" * 300_000 + b"]" * 300_000,
            b'"seed": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
            b'"seed": ' + b"9" * 100_000,
            b'"seed": 1e999',
            b'"seed": NaN',
            b'"seed": -Infinity',
            b'"seed": "\\ud800"',
            b'"seed": "\xff"',
            b'"seed": 0, "seed": 0',
            b'"seed": 0' + b" " * (1 << 20),
        ],
        ids=lambda seed: seed[:16].decode(errors="replace"),
    )
    def test_hostile_values(self, files: dict[str, bytes], seed: bytes) -> None:
        refusal(files[MANIFEST].replace(b'"seed": 0', seed))

    def test_brackets_alone(self) -> None:
        refusal(b"[" * 1_000_000)


def changed(of: dict[str, bytes], **changes: Any) -> bytes:
    """A manifest that is canonical and has the right checksum, but says something else."""
    return replace(Manifest.from_bytes(of[MANIFEST], WHERE), **changes).to_bytes()


class TestContradictions:
    """Each field alone is as the schema wants it."""

    @pytest.mark.parametrize(
        ("part", "change", "words"),
        [
            ("observation", {"size": 4}, "observation.parts: found 3 elements"),
            ("observation", {"names": ("a", "b")}, "observation.names: found 2"),
            ("observation", {"names": ("a", "b", "a")}, "'a' twice"),
            ("observation", {"names": ("a", "b", "c\n")}, "printable"),
            ("action", {"size": 3}, "action.size 3"),
            ("action", {"shape": (3,)}, "action.shape"),
            ("action", {"names": ("a",)}, "action.names"),
            ("action", {"low": (-1.0,)}, "action.low: found 1"),
            ("action", {"high": (1.0, 2.0, 3.0)}, "action.high: found 3"),
            ("action", {"low": (2.0, -2.0), "high": (2.0, 2.0)}, "'joint_0'"),
            ("omega", {"default": 5.0}, "omega"),
            ("omega", {"low": 1.0}, "omega"),
            ("omega", {"low": -1.5}, "at least -1"),
            ("parity", {"action_error": 1.0}, "action_tolerance"),
            ("parity", {"q_error": 1.0}, "q_tolerance"),
        ],
    )
    def test_it_is_named(self, files: dict[str, bytes], part: str, change: dict[str, Any], words: str) -> None:
        whole = Manifest.from_bytes(files[MANIFEST], WHERE)
        changes = {part: replace(getattr(whole, part), **change)}
        if part == "omega":
            assert whole.guidance is not None
            changes = {"guidance": replace(whole.guidance, **changes)}
        assert words in refusal(replace(whole, **changes).to_bytes())

    @pytest.mark.parametrize("keys", [(None, "a"), ("a", "a"), (None, None), ("a", "b\x1b")])
    def test_keys(self, files: dict[str, bytes], keys: tuple[str | None, ...]) -> None:
        parts = tuple(
            ObservationPart(key, (size,), "float32", "Box", None) for key, size in zip(keys, (1, 2), strict=True)
        )
        observation = Manifest.from_bytes(files[MANIFEST], WHERE).observation
        assert "observation.parts" in refusal(changed(files, observation=replace(observation, parts=parts)))

    def test_a_normalizer_of_another_length(self, files: dict[str, bytes]) -> None:
        observation = Manifest.from_bytes(files[MANIFEST], WHERE).observation
        part = replace(observation.parts[0], normalization=Normalization((0.0,) * 2, (1.0,) * 3, 1.0))
        words = refusal(changed(files, observation=replace(observation, parts=(part,))))
        assert "normalization.mean: found 2" in words

    def test_more_bytes_than_a_bundle_may_have(self, files: dict[str, bytes]) -> None:
        entry = FileEntry("0" * 64, 100 << 20)
        assert "at files" in refusal(changed(files, files=dict.fromkeys(PAIR_DATA, entry)))

    def test_an_edit_is_seen_by_the_checksum(self, files: dict[str, bytes]) -> None:
        assert "checksum" in refusal(files[MANIFEST].replace(b'"seed": 0', b'"seed": 1'))


class TestForms:
    """A manifest says what its policy is, once, and what a policy does not have is not in it."""

    def test_a_pair_is_what_it_was_before_there_were_others(self, good: dict[str, Any]) -> None:
        assert good["format_version"] == 1
        assert "policy" not in good
        manifest = Manifest.from_bytes(canonical(good), WHERE)
        assert manifest.policy == "pair"
        assert manifest.omega == OmegaRange(0.5, -1.0, 4.0)

    def test_a_deterministic_policy_has_nothing_to_turn(self, deterministic_files: dict[str, bytes]) -> None:
        value = json.loads(deterministic_files[MANIFEST])
        assert (value["format_version"], value["policy"]) == (2, "deterministic")
        assert not value.keys() & {"omega", "num_candidates", "flow_steps"}
        manifest = Manifest.from_bytes(deterministic_files[MANIFEST], WHERE)
        assert (manifest.policy, manifest.guidance, manifest.omega) == ("deterministic", None, None)

    @pytest.mark.parametrize("key", ["omega", "num_candidates", "flow_steps"])
    def test_what_a_form_does_not_have(
        self, good: dict[str, Any], deterministic_files: dict[str, bytes], key: str
    ) -> None:
        deterministic = json.loads(deterministic_files[MANIFEST])
        for value in (good[key], None):
            assert f"unknown key '{key}'" in refusal(checked({**deterministic, key: value}))
        without = {name: value for name, value in good.items() if name != key}
        assert f"the key '{key}'" in refusal(checked(without))

    @pytest.mark.parametrize("policy", ["pair", "deterministic", "flow", "", None, 1, ["pair"]])
    def test_other_words_for_it(self, good: dict[str, Any], deterministic_files: dict[str, bytes], policy: Any) -> None:
        assert "unknown key 'policy'" in refusal(checked({**good, "policy": policy}))
        if policy != "deterministic":
            deterministic = {**json.loads(deterministic_files[MANIFEST]), "policy": policy}
            assert "at policy: found" in refusal(checked(deterministic))

    def test_a_diffusion_policy_has_its_schedule(self, diffusion_files: dict[str, bytes]) -> None:
        value = json.loads(diffusion_files[MANIFEST])
        assert (value["format_version"], value["policy"], value["betas"]) == (3, "diffusion", list(BETAS))
        assert not value.keys() & {"omega", "flow_steps"}
        manifest = Manifest.from_bytes(diffusion_files[MANIFEST], WHERE)
        assert (manifest.policy, manifest.noise_size) == ("diffusion", len(BETAS) * manifest.action.size)
        assert manifest.guidance == Guidance(len(BETAS), 3, OmegaRange(0.0, 0.0, 0.0), BETAS)

    @pytest.mark.parametrize(
        ("betas", "words"),
        [
            ([], "at betas: found a list of 0, expected at least 1 items"),
            ([0.5, 0.0], "at betas[1]: found 0.0, expected more than 0"),
            ([0.5, 1.0], "at betas[1]: found 1.0, expected less than 1"),
            ([0.5, "0.5"], "at betas[1]: found '0.5', expected type number"),
            ([1e-17, 0.5], "at betas[0]: found 1e-17, expected at least 2.2e-16"),
            ([0.5] * 1001, "expected at most 1000 items"),
            (0.5, "at betas: found 0.5, expected type array"),
        ],
        ids=str,
    )
    def test_what_is_no_schedule(self, diffusion_files: dict[str, bytes], betas: Any, words: str) -> None:
        assert words in refusal(checked({**json.loads(diffusion_files[MANIFEST]), "betas": betas}))

    def test_noise_without_end(self, diffusion_files: dict[str, bytes]) -> None:
        """Bounds of each number alone would let a decision draw gigabytes."""
        value = {**json.loads(diffusion_files[MANIFEST]), "betas": [0.5] * 1000, "num_candidates": 4096}
        actions = 2100
        value["action"] = {
            "size": actions, "shape": [actions], "names": [f"a{index}" for index in range(actions)],
            "low": [0.0] * actions, "high": [1.0] * actions,
        }  # fmt: skip
        assert "numbers of noise for a decision, expected at most 16777216" in refusal(checked(value))

    def test_a_form_of_the_future(self, diffusion_files: dict[str, bytes]) -> None:
        value = {**json.loads(diffusion_files[MANIFEST]), "format_version": 6, "policy": "telepathy"}
        assert "at format_version: found 6, expected at most 5" in refusal(checked(value))

    def test_the_version_of_the_other_form(self, good: dict[str, Any], deterministic_files: dict[str, bytes]) -> None:
        assert "the key 'policy'" in refusal(checked({**good, "format_version": 2}))
        deterministic = json.loads(deterministic_files[MANIFEST])
        assert "unknown key 'policy'" in refusal(checked({**deterministic, "format_version": 1}))


def checked(value: dict[str, Any]) -> bytes:
    """Canonical, and with the checksum that belongs to it."""
    rest = {key: part for key, part in value.items() if key != "checksum"}
    return canonical({**rest, "checksum": hashlib.sha256(canonical(rest)).hexdigest()})


class TestVersions:
    def test_a_newer_format_says_what_to_do(self, files: dict[str, bytes]) -> None:
        data = files[MANIFEST].replace(b'"format_version": 1', b'"format_version": 6')
        words = refusal(data)
        assert "newer version" in words
        assert "update dipole_runtime" in words

    def test_a_newer_format_may_look_otherwise(self) -> None:
        assert "update dipole_runtime" in refusal(b'{"format": "dipole-bundle", "format_version": 7}')

    @pytest.mark.parametrize("version", [b"0", b"1.5", b"true", b'"2"', b"null"])
    def test_what_is_no_version(self, files: dict[str, bytes], version: bytes) -> None:
        words = refusal(files[MANIFEST].replace(b'"format_version": 1', b'"format_version": ' + version))
        assert "format_version" in words
        assert "newer" not in words

    @pytest.mark.parametrize("data", [b"[]", b"{}", b"3", b"null", b'{"format": "onnx"}'])
    def test_another_file(self, data: bytes) -> None:
        assert "not a dipole bundle" in refusal(data)
