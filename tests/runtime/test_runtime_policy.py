"""GuidedPolicy: its actions are those of the mathematics, its arguments are checked, and it can be shared."""

from __future__ import annotations

import gc
import threading
import tracemalloc
import warnings
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from dipole_runtime import Bundle, GuidedAction, GuidedPolicy, GuidedPolicyError
from dipole_runtime.manifest import GUIDED, OmegaRange, Parity
from dipole_runtime.observations import all_finite, observation_of
from dipole_runtime.parity import compare
from dipole_runtime.reference import TwoNetworkPolicy
from dipole_runtime.sessions import Network
from dipole_runtime.vectors import TestVectors as Vectors
from small_bundles import (
    Array,
    Sizes,
    SmallPolicy,
    assert_one_sentence,
    candidates_of,
    dict_parts,
    edited,
    make_files,
    make_manifest,
    make_policy,
    make_vectors,
    q_of,
    rehashed,
)

Files = dict[str, bytes]

OMEGAS = [-1.0, 0.0, 0.3, 1.0, 4.0]


def observation_and_noise(policy: SmallPolicy, seed: int, candidates: int = 3) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=policy.sizes.observation).astype(np.float32),
        rng.normal(size=(candidates, policy.sizes.action)).astype(np.float32),
    )


def refusal(call: Any, *arguments: Any, **keywords: Any) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(GuidedPolicyError) as raised:
            call(*arguments, **keywords)
    assert_one_sentence(raised.value)
    return str(raised.value)


class TestMathematics:
    """The fused graph, the two networks and float64 agree."""

    @pytest.mark.parametrize("omega", OMEGAS)
    @pytest.mark.parametrize("candidates", [1, 2, 3, 32])
    def test_the_action_is_the_best_candidate(
        self, policy: GuidedPolicy, small: SmallPolicy, omega: float, candidates: int
    ) -> None:
        for seed in range(5):
            observation, noise = observation_and_noise(small, seed, candidates)
            result = policy.act(observation, omega=omega, noise=noise)
            expected = candidates_of(small, observation, noise, omega)
            q = q_of(small, observation, expected)
            np.testing.assert_allclose(result.q, q, atol=1e-5)
            np.testing.assert_allclose(result.action, expected[q.argmax()], atol=1e-5)
            assert result.chosen == q.argmax()

    def test_the_reference_agrees(self, files: Files, small: SmallPolicy) -> None:
        reference = TwoNetworkPolicy(Bundle.from_files(files, "small"))
        observation, noise = observation_and_noise(small, 0, 7)
        omegas = np.array(OMEGAS, np.float32)
        candidates = reference.candidates(observation, noise, omegas)
        expected = np.array([candidates_of(small, observation, noise, float(omega)) for omega in omegas])
        np.testing.assert_allclose(candidates, expected, atol=1e-5)
        q = reference.q(observation, candidates)
        np.testing.assert_allclose(q, [q_of(small, observation, rows) for rows in expected], atol=1e-5)
        action, same = reference.run(observation, noise, omegas)
        np.testing.assert_array_equal(action, candidates[np.arange(len(omegas)), q.argmax(axis=1)])
        np.testing.assert_array_equal(same, q)

    def test_the_normaliser_clips_somewhere(self, small: SmallPolicy) -> None:
        """Otherwise the tests above would not see whether it is there."""
        observations = np.stack([observation_and_noise(small, seed)[0] for seed in range(5)])
        assert (np.abs((observations - small.mean) / small.std) > small.clip).any()

    @pytest.mark.parametrize(("omega", "other"), [(0.0, "negative"), (-1.0, "positive")])
    def test_where_one_network_alone_decides(self, small: SmallPolicy, omega: float, other: str) -> None:
        """ω = 0 and ω = −1 do not see the other network at all."""
        mad = replace(small, **{other: [(1e3 * weight, bias) for weight, bias in getattr(small, other)]})
        observation, noise = observation_and_noise(small, 1)
        results = []
        for one in (small, mad):
            policy = GuidedPolicy.from_bundle(Bundle.from_files(make_files(one), "b"))
            results.append(policy.act(observation, omega=omega, noise=noise))
        np.testing.assert_array_equal(results[0].action, results[1].action)
        np.testing.assert_array_equal(results[0].q, results[1].q)

    def test_a_sweep_is_an_act_for_every_omega(self, policy: GuidedPolicy, small: SmallPolicy) -> None:
        for seed in range(10):
            observation, noise = observation_and_noise(small, seed, 4)
            for omega, swept in zip(OMEGAS, policy.sweep(observation, OMEGAS, noise=noise), strict=True):
                acted = policy.act(observation, omega=omega, noise=noise)
                assert swept.omega == omega == acted.omega
                np.testing.assert_allclose(swept.action, acted.action, atol=1e-6)
                np.testing.assert_allclose(swept.q, acted.q, atol=1e-6)

    def test_a_sweep_uses_one_noise_for_all(self, policy: GuidedPolicy) -> None:
        first, again = policy.sweep(np.zeros(3), [0.5, 0.5], rng=np.random.default_rng(0))
        np.testing.assert_array_equal(first.q, again.q)

    @pytest.mark.parametrize("shape", [(), (1,), (2, 3), (6,)])
    def test_the_actions_shape_is_the_manifests(self, shape: tuple[int, ...]) -> None:
        size = int(np.prod(shape))
        small = replace(make_policy(Sizes(action=size)), action_shape=shape)
        policy = GuidedPolicy.from_bundle(Bundle.from_files(make_files(small), "b"))
        observation, noise = observation_and_noise(small, 2)
        result = policy.act(observation, omega=1.0, noise=noise)
        expected = candidates_of(small, observation, noise, 1.0)
        best = expected[q_of(small, observation, expected).argmax()].reshape(shape)
        assert isinstance(result.action, np.ndarray)
        assert result.action.shape == shape
        np.testing.assert_allclose(result.action, best, atol=1e-5)

    @pytest.mark.parametrize("push", [-20.0, 20.0])
    def test_actions_stay_within_bounds(self, small: SmallPolicy, push: float) -> None:
        *before, (weight, bias) = small.positive
        strong = replace(small, positive=[*before, (weight, bias + np.float32(push))])
        policy = GuidedPolicy.from_bundle(Bundle.from_files(make_files(strong), "b"))
        bound = small.low if push < 0 else small.high
        for seed in range(20):
            observation, noise = observation_and_noise(small, seed)
            np.testing.assert_array_equal(policy.act(observation, omega=0.5, noise=noise).action, bound)


class TestResult:
    def test_fields(self, policy: GuidedPolicy) -> None:
        result = policy.act(np.zeros(3))
        assert result.action.dtype == result.q.dtype == np.float32
        assert result.q.shape == (3,)
        assert result.omega == policy.manifest.omega.default
        assert 0 < result.latency_s < 10
        assert result.chosen == int(np.argmax(result.q))
        with pytest.raises(FrozenInstanceError):
            result.omega = 1.0  # type: ignore[misc]

    def test_results_are_kept(self, policy: GuidedPolicy) -> None:
        """Later calls do not write into what earlier ones gave."""
        first = policy.act(np.zeros(3), rng=np.random.default_rng(0))
        action, q = first.action.copy(), first.q.copy()
        for _ in range(10):
            policy.act(np.ones(3))
        np.testing.assert_array_equal(first.action, action)
        np.testing.assert_array_equal(first.q, q)

    def test_the_hash_names_the_bundle(self, policy: GuidedPolicy, files: Files) -> None:
        assert policy.hash == policy.manifest.checksum
        assert policy.hash.encode() in files["manifest.json"]


class TestRandomness:
    def test_a_generator_decides(self, policy: GuidedPolicy) -> None:
        def act(seed: int) -> GuidedAction:
            return policy.act(np.zeros(3), rng=np.random.default_rng(seed))

        np.testing.assert_array_equal(act(0).q, act(0).q)
        assert not np.array_equal(act(0).q, act(1).q)
        noise = np.random.default_rng(0).standard_normal((3, 2), np.float32)
        np.testing.assert_array_equal(act(0).q, policy.act(np.zeros(3), noise=noise).q)

    def test_the_generator_goes_on(self, policy: GuidedPolicy) -> None:
        rng = np.random.default_rng(0)
        assert not np.array_equal(policy.act(np.zeros(3), rng=rng).q, policy.act(np.zeros(3), rng=rng).q)

    def test_without_one_every_call_and_every_policy_differs(self, policy: GuidedPolicy, files: Files) -> None:
        other = GuidedPolicy.from_bundle(Bundle.from_files(files, "small"))
        q = [one.act(np.zeros(3)).q.tobytes() for one in (policy, policy, other)]
        assert len(set(q)) == 3

    def test_deterministic_noise(self, policy: GuidedPolicy) -> None:
        noise = policy.deterministic_noise()
        expected = np.random.default_rng(0).standard_normal((3, 2))
        expected[0] = 0
        assert noise.dtype == np.float32
        np.testing.assert_array_equal(noise, expected.astype(np.float32))
        more = policy.deterministic_noise(5)
        assert more.shape == (5, 2)
        np.testing.assert_array_equal(more[:3], noise)


class TestObservations:
    def test_what_a_program_may_hold(self, policy: GuidedPolicy) -> None:
        noise = policy.deterministic_noise()
        values = np.array([1.0, -2.0, 3.0], np.float32)
        strided = np.zeros((3, 2), np.float32)
        strided[:, 0] = values
        expected = policy.act(values, noise=noise).q
        same = [values.astype(np.float64), values.tolist(), tuple(values.tolist()), values.astype(">f4"), strided[:, 0]]
        for one in [*same, values.astype(np.int32), values.astype(np.float16)]:
            np.testing.assert_array_equal(policy.act(one, noise=noise).q, expected)

    def test_it_is_not_changed(self, policy: GuidedPolicy) -> None:
        observation = np.ones(3, np.float32)
        observation.flags.writeable = False
        policy.act(observation)
        np.testing.assert_array_equal(observation, 1)

    @pytest.mark.parametrize(
        ("observation", "words"),
        [
            (np.zeros(4), "shape (4,)"),
            (np.zeros((1, 3)), "shape (1, 3)"),
            (np.zeros((3, 1)), "shape (3, 1)"),
            (np.zeros(0), "shape (0,)"),
            (1.0, "shape ()"),
            (None, "object"),
            ("abc", "expected real numbers"),
            (np.zeros(3, complex), "complex"),
            (np.array([1, 2, None], object), "object"),
            (np.zeros(3, "datetime64[s]"), "datetime64"),
            ([[1.0], [1.0, 2.0], 3.0], "list"),
            ({"a": np.zeros(3)}, "mapping"),
        ],
        ids=str,
    )
    def test_other_things(self, policy: GuidedPolicy, observation: Any, words: str) -> None:
        assert words in refusal(policy.act, observation)

    @pytest.mark.parametrize(("value", "words"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (1e39, "inf")])
    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    def test_not_finite(self, policy: GuidedPolicy, value: float, words: str, dtype: Any) -> None:
        if value == 1e39 and dtype == np.float32:
            return
        for index in range(3):
            observation = np.zeros(3, dtype)
            observation[index] = value
            sentence = refusal(policy.act, observation)
            assert f"observation is {words} for 'observation_{index}' (element {index})" in sentence

    def test_the_largest_numbers_are_finite(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for values in ([3e38, -3e38, 1e-45], [0.0], [3.4e38] * 100):
                assert all_finite(np.array(values, np.float32))
            for values in ([np.nan, 0], [0, np.inf], [np.inf, -np.inf], [3e38, np.nan]):
                assert not all_finite(np.array(values, np.float32))
                assert not all_finite(np.array([values, values], np.float32))

    def test_a_shape_of_its_own(self) -> None:
        parts = (replace(dict_parts()[1], key=None, shape=(2, 3)),)
        policy = GuidedPolicy.from_bundle(Bundle.from_files(make_files(make_policy(Sizes(6), parts)), "b"))
        noise = policy.deterministic_noise()
        image = np.arange(6.0).reshape(2, 3)
        np.testing.assert_array_equal(policy.act(image, noise=noise).q, policy.act(image.ravel(), noise=noise).q)
        assert "shape (3, 2)" in refusal(policy.act, image.T)


class TestDictObservations:
    @staticmethod
    def split(flat: Array) -> dict[str, Array]:
        return {"goal": flat[:1], "arm": flat[1:5].reshape(2, 2), "buttons": flat[5:]}

    def test_parts_are_joined_in_the_manifests_order(self, dict_policy: GuidedPolicy, small_dict: SmallPolicy) -> None:
        for seed in range(5):
            flat, noise = observation_and_noise(small_dict, seed)
            flat[5:] = flat[5:] > 0
            parts: Mapping[str, Any] = self.split(flat.astype(np.float64))
            expected = candidates_of(small_dict, flat, noise, 0.5)
            q = q_of(small_dict, flat, expected)
            orders = [parts, dict(reversed(parts.items())), dict(sorted(parts.items()))]
            mixed = {**parts, "buttons": flat[5:].astype(np.int8), "arm": flat[1:5].tolist()}
            for observation in [*orders, mixed]:
                result = dict_policy.act(observation, noise=noise)
                np.testing.assert_allclose(result.q, q, atol=1e-5)
                np.testing.assert_allclose(result.action, expected[q.argmax()], atol=1e-5)

    def test_there_and_back(self, dict_policy: GuidedPolicy, policy: GuidedPolicy) -> None:
        flat = np.arange(7, dtype=np.float32)
        parts = observation_of(dict_policy.manifest.observation, flat)
        assert isinstance(parts, dict)
        assert {key: value.shape for key, value in parts.items()} == {"goal": (1,), "arm": (2, 2), "buttons": (2,)}
        np.testing.assert_array_equal(np.concatenate([value.ravel() for value in parts.values()]), flat)
        assert isinstance(observation_of(policy.manifest.observation, flat[:3]), np.ndarray)

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"goal": None}, "no 'goal'"),
            ({"more": np.zeros(1)}, "unknown key 'more'"),
            ({7: np.zeros(1)}, "unknown key 7"),
            ({"arm": np.zeros((2, 3))}, "observation 'arm' has shape (2, 3)"),
            ({"arm": np.zeros((1, 4))}, "observation 'arm' has shape (1, 4)"),
            ({"arm": "left"}, "observation 'arm'"),
            ({"arm": np.array([[0, 0], [np.nan, 0]])}, "observation is nan for 'observation_3' (element 3)"),
            ({"goal": np.array([1e300])}, "observation is inf for 'observation_0'"),
        ],
        ids=str,
    )
    def test_other_things(self, dict_policy: GuidedPolicy, change: dict[Any, Any], words: str) -> None:
        observation = {**self.split(np.zeros(7)), **change}
        observation = {key: value for key, value in observation.items() if value is not None}
        assert words in refusal(dict_policy.act, observation)

    @pytest.mark.parametrize("observation", [np.zeros(7), [0.0] * 7, None, "goal", {}])
    def test_no_mapping(self, dict_policy: GuidedPolicy, observation: Any) -> None:
        assert "expected a mapping with the keys 'goal', 'arm', 'buttons'" in refusal(dict_policy.act, observation)


class TestArguments:
    @pytest.mark.parametrize(
        "omega", [-1.001, 4.001, np.nan, np.inf, -np.inf, 1e400, 10**400, "much", "0.5", [1.0, 2.0], {}]
    )
    def test_omega(self, policy: GuidedPolicy, omega: Any) -> None:
        assert "omega is" in refusal(policy.act, np.zeros(3), omega=omega)
        assert "omega is" in refusal(policy.sweep, np.zeros(3), [0.0, omega])

    @pytest.mark.parametrize("omega", [-1, 4, np.float32(0.5), np.float64(2), np.array(1.0)])
    def test_omegas_of_many_types(self, policy: GuidedPolicy, omega: Any) -> None:
        assert policy.act(np.zeros(3), omega=omega).omega == float(omega)

    @pytest.mark.parametrize("omegas", [[], 0.5, None, "0.5", np.array(1.0)])
    def test_omegas(self, policy: GuidedPolicy, omegas: Any) -> None:
        assert "omegas is" in refusal(policy.sweep, np.zeros(3), omegas)

    def test_omegas_as_an_array(self, policy: GuidedPolicy) -> None:
        assert [one.omega for one in policy.sweep(np.zeros(3), np.array([0.0, 1.0]))] == [0.0, 1.0]

    @pytest.mark.parametrize(
        ("noise", "words"),
        [
            (np.zeros(2), "shape"),
            (np.zeros((3, 3)), "shape (3, 3), expected (3, 2)"),
            (np.zeros((0, 2)), "num_candidates is 0"),
            (np.zeros((4097, 2)), "num_candidates is 4097"),
            (np.zeros((1, 3, 2)), "shape"),
            (0.0, "shape"),
            ("noise", "expected an array"),
            ([[1.0], [1.0, 2.0]], "expected an array"),
            (np.array([[0, 0], [0, np.nan]]), "noise is nan for 'joint_1' of candidate 1"),
            (np.array([[0, 0], [np.inf, 0]]), "noise is inf for 'joint_0' of candidate 1"),
            (np.array([[0, 0], [1e39, 0]]), "noise is inf for 'joint_0' of candidate 1"),
        ],
        ids=str,
    )
    def test_noise(self, policy: GuidedPolicy, noise: Any, words: str) -> None:
        assert words in refusal(policy.act, np.zeros(3), noise=noise)
        assert words in refusal(policy.sweep, np.zeros(3), [0.0], noise=noise)

    @pytest.mark.parametrize("count", [0, -1, 4097, 1.5, 2.0, True, "3", np.nan, 10**30])
    def test_num_candidates(self, policy: GuidedPolicy, count: Any) -> None:
        for call in (policy.act, policy.deterministic_noise):
            arguments = (np.zeros(3),) if call == policy.act else ()
            assert "num_candidates is" in refusal(call, *arguments, num_candidates=count)

    @pytest.mark.parametrize("count", [1, 5, np.int64(7), 4096])
    def test_numbers_of_candidates(self, policy: GuidedPolicy, count: Any) -> None:
        assert policy.act(np.zeros(3), num_candidates=count).q.shape == (count,)

    def test_noise_and_its_number(self, policy: GuidedPolicy) -> None:
        noise = policy.deterministic_noise(5)
        assert policy.act(np.zeros(3), noise=noise).q.shape == (5,)
        assert policy.act(np.zeros(3), noise=noise, num_candidates=5).q.shape == (5,)
        assert "expected (4, 2)" in refusal(policy.act, np.zeros(3), noise=noise, num_candidates=4)

    def test_more_than_one_run_may_be_asked_for(self, policy: GuidedPolicy) -> None:
        assert "65536" in refusal(policy.sweep, np.zeros(3), [0.0] * 17, num_candidates=4096)
        assert len(policy.sweep(np.zeros(3), [0.0] * 16, num_candidates=4096)) == 16

    @pytest.mark.parametrize("rng", [0, "seed", np.random.RandomState(0)])
    def test_rng(self, policy: GuidedPolicy, rng: Any) -> None:
        assert "numpy.random.Generator" in refusal(policy.act, np.zeros(3), rng=rng)

    @pytest.mark.parametrize("threads", [0, -1, 1.5, True, "2", None])
    def test_threads(self, files: Files, threads: Any) -> None:
        bundle = Bundle.from_files(files, "b")
        assert "threads is" in refusal(GuidedPolicy.from_bundle, bundle, threads=threads)

    def test_two_threads(self, files: Files, policy: GuidedPolicy) -> None:
        other = GuidedPolicy.from_bundle(Bundle.from_files(files, "b"), threads=2)
        noise = policy.deterministic_noise()
        np.testing.assert_allclose(
            other.act(np.ones(3), noise=noise).q, policy.act(np.ones(3), noise=noise).q, atol=1e-6
        )

    @pytest.mark.parametrize("providers", [["NoSuchProvider"], ["CPUExecutionProvider", "NoSuchProvider"], []])
    def test_providers(self, files: Files, providers: list[str]) -> None:
        sentence = refusal(GuidedPolicy.from_bundle, Bundle.from_files(files, "b"), providers=providers)
        assert "CPUExecutionProvider" in sentence

    def test_a_provider_that_does_not_start(self, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        """ONNX Runtime leaves it out and goes on with the others."""
        monkeypatch.setattr("onnxruntime.InferenceSession.get_providers", lambda self: ["OtherProvider"])
        sentence = refusal(GuidedPolicy.from_bundle, Bundle.from_files(files, "b"))
        assert "CPUExecutionProvider cannot start" in sentence

    def test_providers_that_are_there(self, files: Files) -> None:
        bundle = Bundle.from_files(files, "b")
        GuidedPolicy.from_bundle(bundle, providers=["CPUExecutionProvider"])
        GuidedPolicy.from_bundle(bundle, providers=[("CPUExecutionProvider", {})])


class TestOutputs:
    """What the graph gives is not trusted either."""

    @pytest.mark.parametrize(("output", "words"), [("action", "joint_0"), ("q", "candidate 0")])
    def test_not_finite(self, files: Files, output: str, words: str) -> None:
        """Division by the last observation, which the test vectors never make zero."""

        def edit(model: Any) -> None:
            from onnx import helper, numpy_helper

            for node in model.graph.node:
                for index, name in enumerate(node.output):
                    if name == output:
                        node.output[index] = f"{output}_before"
            last = numpy_helper.from_array(np.array([2], np.int64), "last")
            model.graph.initializer.append(last)
            model.graph.node.extend(
                [
                    helper.make_node("Gather", ["observation", "last"], ["divisor"], axis=1),
                    helper.make_node("Div", ["divisor", "divisor"], ["one_or_nan"]),
                    helper.make_node("Mul", [f"{output}_before", "one_or_nan"], [output]),
                ]
            )

        policy = GuidedPolicy.from_bundle(Bundle.from_files(edited(files, GUIDED, edit), "b"))
        policy.act(np.ones(3))
        sentence = refusal(policy.act, np.zeros(3))
        assert f"the policy's {output} is nan for" in sentence
        assert words in sentence

    def test_a_failing_run(self, policy: GuidedPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*arguments: Any) -> list[Any]:
            raise RuntimeError("out of\nmemory")

        monkeypatch.setattr(policy._guided._session, "run", fail)
        assert "guided_policy.onnx failed" in refusal(policy.act, np.zeros(3))


class TestParity:
    """What the measure of agreement sees, and what it leaves to rounding."""

    def run_of(self, vectors: Vectors, row: int = 0) -> Any:
        """The trainer itself, but taking the candidate that is ``row``-th best."""
        index = iter(range(len(vectors.observations)))

        def run(observation: Array, noise: Array, omegas: Array) -> tuple[Array, Array]:
            vector = next(index)
            q = vectors.q[vector]
            order = np.argsort(-q, axis=1)[:, row]
            return vectors.candidates[vector, np.arange(len(omegas)), order], q

        return run

    def test_the_trainer_agrees_with_itself(self, small: SmallPolicy, policy: GuidedPolicy) -> None:
        vectors = make_vectors(small)
        assert compare(self.run_of(vectors), vectors, policy.manifest) == Parity(0.0, 1e-4, 0.0, 1e-4)

    def test_the_second_best_is_an_error(self, small: SmallPolicy, policy: GuidedPolicy) -> None:
        vectors = make_vectors(small)
        measured = compare(self.run_of(vectors, row=1), vectors, policy.manifest)
        assert measured.action_error > 1e-3
        assert measured.q_error == 0

    def test_ties_are_no_errors(self, small: SmallPolicy, policy: GuidedPolicy) -> None:
        vectors = make_vectors(small)
        tied = replace(vectors, q=np.zeros_like(vectors.q))

        def other_way(observation: Array, noise: Array, omegas: Array) -> tuple[Array, Array]:
            (vector,) = np.flatnonzero((vectors.observations == observation).all(axis=1))
            q = np.zeros_like(vectors.q[vector])
            q[:, -1] = 1e-7
            return vectors.candidates[vector, :, -1], q

        measured = compare(other_way, tied, policy.manifest)
        assert measured.action_error == 0
        assert measured.q_error == pytest.approx(1e-7)

    def test_errors_are_shares_of_the_range_and_of_large_returns(self, small: SmallPolicy) -> None:
        manifest = make_manifest(small, make_files(small))
        vectors = make_vectors(small)
        vectors = replace(vectors, q=vectors.q * 0 + np.arange(3, dtype=np.float32) * 50)
        base = self.run_of(vectors)

        def off(observation: Array, noise: Array, omegas: Array) -> tuple[Array, Array]:
            action, q = base(observation, noise, omegas)
            return action + np.array([0.03, 0.0], np.float32), q + np.array([0, 0, 1], np.float32)

        measured = compare(off, vectors, manifest)
        assert measured.action_error == pytest.approx(0.03 / 3, rel=1e-3)
        assert measured.q_error == pytest.approx(1 / 100)

    @pytest.mark.parametrize("which", [0, 1])
    def test_nan_never_agrees(self, small: SmallPolicy, policy: GuidedPolicy, which: int) -> None:
        vectors = make_vectors(small)
        base = self.run_of(vectors)

        def broken(observation: Array, noise: Array, omegas: Array) -> tuple[Array, Array]:
            results = [one.copy() for one in base(observation, noise, omegas)]
            results[which][0, 0] = np.nan
            return results[0], results[1]

        measured = compare(broken, vectors, policy.manifest)
        assert max(measured.action_error, measured.q_error) == float("inf")

    def test_other_shapes(self, small: SmallPolicy, policy: GuidedPolicy) -> None:
        vectors = make_vectors(small)
        base = self.run_of(vectors)
        sentence = refusal(compare, lambda *inputs: (base(*inputs)[0][:1], vectors.q[0]), vectors, policy.manifest)
        assert "shapes" in sentence


class TestSharing:
    def test_threads_get_what_one_would_get(self, policy: GuidedPolicy, small: SmallPolicy) -> None:
        cases = [(*observation_and_noise(small, seed), OMEGAS[seed % 5]) for seed in range(60)]
        serial = [policy.act(observation, omega=omega, noise=noise) for observation, noise, omega in cases]
        differences: list[str] = []

        def work(start: int) -> None:
            for step in range(300):
                index = (start * 7 + step) % len(cases)
                observation, noise, omega = cases[index]
                result = policy.act(observation, omega=omega, noise=noise)
                if not np.array_equal(result.q, serial[index].q) or result.omega != omega:
                    differences.append(f"{index}")
                if not np.array_equal(result.action, serial[index].action):
                    differences.append(f"{index}")

        self.in_threads(work)
        assert not differences

    def test_threads_draw_different_noise(self, policy: GuidedPolicy) -> None:
        seen: list[bytes] = []

        def work(start: int) -> None:
            seen.extend(policy.act(np.zeros(3), num_candidates=16).q.tobytes() for _ in range(200))

        self.in_threads(work)
        assert len(set(seen)) == len(seen) == 1200

    def in_threads(self, work: Any) -> None:
        threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def test_two_policies_at_once(self, policy: GuidedPolicy, dict_policy: GuidedPolicy) -> None:
        noise = policy.deterministic_noise()
        before = policy.act(np.ones(3), noise=noise).q
        dict_policy.act(TestDictObservations.split(np.ones(7)))
        np.testing.assert_array_equal(policy.act(np.ones(3), noise=noise).q, before)

    def test_calls_keep_nothing(self, policy: GuidedPolicy) -> None:
        def calls(count: int) -> None:
            for _ in range(count):
                policy.act(np.zeros(3))
                policy.sweep(np.zeros(3), [0.0, 1.0])

        calls(200)
        gc.collect()
        resident, tracemalloc_started = self.resident(), tracemalloc.start()
        assert tracemalloc_started is None
        try:
            calls(100)
            before = tracemalloc.get_traced_memory()[0]
            calls(2000)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()
        assert grown < 20_000
        assert self.resident() - resident < 8 << 20

    def resident(self) -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * 4096


class TestLoading:
    def test_a_manifest_with_another_range(self, files: Files) -> None:
        narrow = rehashed(files, omega=OmegaRange(0.0, 0.0, 1.0))
        policy = GuidedPolicy.from_bundle(Bundle.from_files(narrow, "b"))
        assert "expected 0.0 to 1.0" in refusal(policy.act, np.zeros(3), omega=-1.0)

    def test_an_application_with_an_allocator_of_its_own(
        self, files: Files, monkeypatch: pytest.MonkeyPatch, policy: GuidedPolicy
    ) -> None:
        """ONNX Runtime keeps the first one; a second registration fails."""
        monkeypatch.setattr("dipole_runtime.sessions._allocator_registered", False)
        GuidedPolicy.from_bundle(Bundle.from_files(files, "b")).act(np.zeros(3))

    def test_a_network_that_onnx_runtime_refuses(self) -> None:
        with pytest.raises(GuidedPolicyError) as raised:
            Network("guided_policy.onnx", b"no model")
        assert_one_sentence(raised.value, "guided_policy.onnx cannot be loaded", "ONNX Runtime")
