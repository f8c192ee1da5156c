"""Plan bundles: pictures and numbers become the poses of a car, at every ω, and what does not fit is refused."""

from __future__ import annotations

import json
import pathlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dipole_runtime import Bundle, GuidedPolicy, GuidedPolicyError, Manifest
from dipole_runtime.manifest import MANIFEST, PLANNER, SCENE_ENCODER, VECTORS, OmegaRange
from dipole_runtime.page import write_page
from dipole_runtime.vectors import PlanVectors
from onnx import ModelProto, helper, numpy_helper
from runtime_helpers import refusal_of, refusal_of_call, refusal_of_structure, run_python
from small_bundles import edited, rehashed, written
from small_plans import CAMERAS, OMEGAS, POSES, SmallPlanner, an_observation, make_plan_files, make_plan_vectors

Files = dict[str, bytes]


@pytest.fixture(scope="module")
def policy(plan_files: Files) -> GuidedPolicy:
    return GuidedPolicy.from_bundle(Bundle.from_files(plan_files, "small plan"))


def noise(seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(1, POSES * 4)).astype(np.float32)


class TestMathematics:
    @pytest.mark.parametrize("omega", OMEGAS)
    def test_a_plan(self, policy: GuidedPolicy, planner: SmallPlanner, omega: float) -> None:
        for seed in range(4):
            seen = an_observation(seed)
            found = policy.act(seen, omega, noise(seed))
            np.testing.assert_allclose(found.action, planner.of(seen, noise(seed), omega), atol=1e-5)
            assert (found.action.shape, found.action.dtype, found.omega) == ((POSES, 3), np.float32, omega)
            assert (found.q.shape, found.chosen, np.isnan(found.value)) == ((0,), 0, True)
            assert 0 < found.latency_s < 10

    def test_several_omegas_from_the_same_noise(self, policy: GuidedPolicy, planner: SmallPlanner) -> None:
        seen = an_observation(5)
        found = policy.sweep(seen, OMEGAS, noise(5))
        assert [one.omega for one in found] == list(OMEGAS)
        for one, omega in zip(found, OMEGAS, strict=True):
            np.testing.assert_allclose(one.action, planner.of(seen, noise(5), omega), atol=1e-5)

    def test_noise(self, policy: GuidedPolicy, planner: SmallPlanner) -> None:
        seen = an_observation(1)
        assert np.array_equal(policy.deterministic_noise(), make_plan_vectors(planner).noise[0])
        drawn = [policy.act(seen, rng=np.random.default_rng(seed)).action for seed in (0, 0, 1)]
        assert np.array_equal(drawn[0], drawn[1])
        assert not np.array_equal(drawn[0], drawn[2])

    def test_headings_on_both_sides_of_the_back_are_close(self, planner: SmallPlanner, plan_files: Files) -> None:
        """The same yaw, said with a turn more: no error."""
        vectors = make_plan_vectors(planner)
        plans = vectors.plans.copy()
        yaw = plans[1, 2, 5]
        plans[1, 2, 5] = yaw + np.float32(2 * np.pi) * (-1 if yaw > 0 else 1)
        manifest = Manifest.from_bytes(plan_files[MANIFEST], "it")
        action = replace(manifest.action, low=(-200.0,) * 24, high=(200.0,) * 24)
        changed = replace(vectors, plans=plans).to_bytes()
        GuidedPolicy.from_bundle(Bundle.from_files(rehashed({**plan_files, VECTORS: changed}, action=action), "b"))
        plans[1, 2, 5] += np.float32(0.001)
        changed = replace(vectors, plans=plans).to_bytes()
        refusal_of(rehashed({**plan_files, VECTORS: changed}, action=action), "another action", "error 0.001")


class TestObservations:
    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"cameras": None}, "observation 'cameras' has 'NoneType', expected uint8 of shape (3, 6, 8, 3)"),
            ({"cameras": np.zeros((3, 6, 8, 3), np.float32)}, "type float32 and shape (3, 6, 8, 3)"),
            ({"cameras": np.zeros((3, 8, 6, 3), np.uint8)}, "type uint8 and shape (3, 8, 6, 3)"),
            ({"command": 4}, "observation 'command' is 4, expected one of 0 (left), 1 (straight), 2 (right), 3"),
            ({"command": -1}, "observation 'command' is -1"),
            ({"command": 0.5}, "observation 'command' is 0.5"),
            ({"velocity": np.array([np.nan, 0.0])}, "observation is nan for 'velocity_0'"),
            ({"history": np.zeros((3, 3))}, "observation 'history' has shape (3, 3)"),
            ({"speed": 1.0}, "unknown key 'speed'"),
        ],
        ids=str,
    )
    def test_what_does_not_fit(self, policy: GuidedPolicy, changes: dict[str, Any], words: str) -> None:
        assert words in refusal_of_call(policy.act, {**an_observation(0), **changes})

    def test_what_is_not_there(self, policy: GuidedPolicy) -> None:
        seen = an_observation(0)
        for key in seen:
            rest = {other: value for other, value in seen.items() if other != key}
            assert f"has no {key!r}" in refusal_of_call(policy.act, rest)
        assert "observation is ndarray" in refusal_of_call(policy.act, np.zeros(17))

    def test_pictures_from_a_view(self, policy: GuidedPolicy) -> None:
        """Such as those of a driver that gives BGR."""
        seen = an_observation(3)
        view = np.ascontiguousarray(seen["cameras"][..., ::-1])[..., ::-1]
        expected = policy.act(seen, 1.0, noise()).action
        assert np.array_equal(policy.act({**seen, "cameras": view}, 1.0, noise()).action, expected)

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"omega": 4.5}, "omega is 4.5, expected -1.0 to 4.0"),
            ({"num_candidates": 2}, "num_candidates is 2, expected 1 or none: a plan is drawn, and not chosen"),
            ({"noise": np.zeros((2, 32))}, "num_candidates is 2"),
            ({"noise": np.zeros((1, 24))}, "noise has shape (1, 24), expected (1, 32)"),
            ({"noise": np.full((1, 32), np.inf)}, "noise is inf for element 0"),
        ],
        ids=str,
    )
    def test_other_arguments(self, policy: GuidedPolicy, given: dict[str, Any], words: str) -> None:
        assert words in refusal_of_call(policy.act, an_observation(0), **given)


class TestPlansThatMayNotBeDriven:
    def test_a_bundle_loads_whatever_is_drawn(self, planner: SmallPlanner, plan_files: Files) -> None:
        """Bounds that the test vectors keep by a hair, and most other noise does not."""
        reach = np.abs(make_plan_vectors(planner).plans).max(axis=(0, 1)) + np.float32(1e-3)
        low, high = (tuple(map(float, bound)) for bound in (-reach, reach))
        action = replace(Manifest.from_bytes(plan_files[MANIFEST], "it").action, low=low, high=high)
        tight = Bundle.from_files(rehashed(plan_files, action=action), "b")
        policies = [GuidedPolicy.from_bundle(tight) for _ in range(5)]
        refused = 0
        for seed in range(40):
            try:
                policies[0].act(an_observation(100), 4.0, noise(seed))
            except GuidedPolicyError:
                refused += 1
        assert refused > 10

    def test_outside_the_bounds(self, policy: GuidedPolicy) -> None:
        far = {**an_observation(0), "history": np.full((4, 3), 1e4, np.float32)}
        sentence = refusal_of_call(policy.act, far, 0.0, noise())
        assert "the plan is" in sentence
        assert "the bundle's bounds" in sentence
        assert "_0.5s'" in sentence

    def test_not_finite(self, plan_files: Files) -> None:
        """Passes the test vectors, and gives NaN where the car stands with a history of zeros."""

        def edit(model: ModelProto) -> None:
            (node,) = [node for node in model.graph.node if "plan" in node.output]
            node.output[0] = "before"
            model.graph.node.extend(
                [
                    helper.make_node("ReduceSumSquare", ["history"], ["length"], keepdims=0),
                    helper.make_node("Div", ["length", "length"], ["factor"]),
                    helper.make_node("Mul", ["before", "factor"], ["plan"]),
                ]
            )

        policy = GuidedPolicy.from_bundle(Bundle.from_files(edited(plan_files, PLANNER, edit), "b"))
        policy.act(an_observation(0))
        standing = {**an_observation(0), "history": np.zeros((4, 3), np.float32)}
        assert "the plan is nan for 'x_0.5s', expected -20 to 20" in refusal_of_call(policy.act, standing)


class TestDamage:
    @pytest.mark.parametrize("name", [SCENE_ENCODER, PLANNER])
    def test_another_network(self, plan_files: Files, name: str) -> None:
        other = make_plan_files(SmallPlanner(seed=9))
        refusal_of({**plan_files, name: other[name]}, name, "sha256")
        refusal_of(rehashed({**plan_files, name: other[name]}), "another action from encoder, planner")

    @pytest.mark.parametrize("name", [SCENE_ENCODER, PLANNER])
    def test_one_weight(self, plan_files: Files, name: str) -> None:
        def move(model: ModelProto) -> None:
            tensor = next(one for one in model.graph.initializer if numpy_helper.to_array(one).ndim == 2)
            values = numpy_helper.to_array(tensor).copy()
            values[0, 0] += 0.1
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

        refusal_of(edited(plan_files, name, move), "another action")

    def test_pictures_of_another_type(self, plan_files: Files) -> None:
        def as_floats(model: ModelProto) -> None:
            next(one for one in model.graph.input if one.name == "cameras").type.tensor_type.elem_type = 1

        refusal_of_structure(
            edited(plan_files, SCENE_ENCODER, as_floats),
            SCENE_ENCODER,
            "input cameras has element type 1, expected uint8 (2)",
        )

    def test_vectors(self, plan_files: Files, planner: SmallPlanner) -> None:
        vectors = make_plan_vectors(planner)
        smaller = replace(vectors, cameras=vectors.cameras[:, :2])
        refusal_of(rehashed({**plan_files, VECTORS: smaller.to_bytes()}), "cameras has shape (3, 2, 6, 8, 3), expected")
        raw = bytearray(vectors.to_bytes())
        start = raw.index(b"'descr': '|u1'")
        raw[start : start + 14] = b"'descr': '<f4'"
        # The zip's own checksum is made right, too.
        refusal_of(rehashed({**plan_files, VECTORS: bytes(raw)}), VECTORS)
        commands = vectors.observations.copy()
        commands[:, -1] = 4
        changed = replace(vectors, observations=commands)
        refusal_of(rehashed({**plan_files, VECTORS: changed.to_bytes()}), "'command' is 4")
        beyond = replace(vectors, plans=vectors.plans + np.float32(1e3))
        refusal_of(rehashed({**plan_files, VECTORS: beyond.to_bytes()}), "the trainer's action is", "'x_0.5s'")
        short: Any = PlanVectors(
            *(getattr(vectors, name) for name in ("cameras", "observations", "noise")), *some(vectors)
        )
        refusal_of(rehashed({**plan_files, VECTORS: short.to_bytes()}), "omegas are 0 to 2, expected them to reach")


def some(vectors: PlanVectors) -> tuple[Any, Any]:
    return vectors.omegas[1:4], vectors.plans[:, 1:4]


class TestManifest:
    def test_what_it_says(self, plan_files: Files) -> None:
        manifest = Manifest.from_bytes(plan_files[MANIFEST], "it")
        assert (manifest.policy, manifest.format_version, manifest.noise_size) == ("plan", 4, 32)
        assert manifest.omega == OmegaRange(0.5, -1.0, 4.0)
        value = json.loads(plan_files[MANIFEST])
        assert value["plan"]["cameras"] == list(CAMERAS)
        assert sorted(value["parity"]) == ["action_error", "action_tolerance"]

    def test_an_older_runtime_refuses_it_in_one_sentence(
        self, plan_files: Files, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        known = {"pair": 1, "deterministic": 2, "diffusion": 3}
        monkeypatch.setattr("dipole_runtime.manifest.FORMAT_VERSIONS", known)
        monkeypatch.setattr("dipole_runtime.manifest.VERSION_WITH_PICTURES", 3)
        refusal_of(plan_files, "found 4, expected at most 3", "update dipole_runtime")

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"cameras": ("A", "A", "B")}, "at plan.cameras"),
            ({"commands": ("left", "le\nft")}, "at plan.commands"),
            ({"height": 4096, "width": 4096}, "at plan: found 50331648 pixels of all cameras, expected at most"),
            ({"height": 7}, "cameras has shape"),
            ({"tokens": 4}, "tokens has shape"),
        ],
        ids=str,
    )
    def test_what_contradicts_itself(self, plan_files: Files, changes: dict[str, Any], words: str) -> None:
        plan = Manifest.from_bytes(plan_files[MANIFEST], "it").plan
        assert plan is not None
        refusal_of(rehashed(plan_files, plan=replace(plan, **changes)), words)

    def test_parts_and_poses(self, plan_files: Files) -> None:
        manifest = Manifest.from_bytes(plan_files[MANIFEST], "it")
        renamed = replace(manifest.observation.parts[1], key="speed")
        parts = (manifest.observation.parts[0], renamed, *manifest.observation.parts[2:])
        refusal_of(rehashed(plan_files, observation=replace(manifest.observation, parts=parts)), "expected history of")
        refusal_of(rehashed(plan_files, action=replace(manifest.action, shape=(24,))), "expected poses (any, 3)")


class TestCommands:
    def test_inspect_selftest_and_bench(self, plan_files: Files, tmp_path: pathlib.Path) -> None:
        path = written(plan_files, tmp_path / "plan")
        said = {}
        for command in (["inspect"], ["selftest"], ["bench", "--runs", "20"]):
            result = run_python("-m", "dipole_runtime", command[0], str(path), *command[1:])
            assert (result.returncode, result.stderr) == (0, "")
            said[command[0]] = result.stdout
        for words in (
            "policy       plan of 8 poses, one every 0.5 s",
            "cameras      CAM_L0, CAM_F0, CAM_R0: 8 × 6 pixels, RGB",
            "0 left, 1 straight, 2 right, 3 unknown",
            "1.00e-06 m or rad",
            "scene_encoder.onnx",
        ):
            assert words in said["inspect"], words
        assert "3 test vectors at ω = -1, 0, 0.5, 2, 4" in said["selftest"]
        assert "passed" in said["selftest"]
        assert [line.split()[:2] for line in said["bench"].splitlines()[2:]] == [["1", "1"], ["5", "1"]]

    def test_no_page(self, plan_files: Files, tmp_path: pathlib.Path) -> None:
        sentence = refusal_of_call(write_page, Bundle.from_files(plan_files, "robot's bundle"), tmp_path)
        assert "robot's bundle sees pictures" in sentence
