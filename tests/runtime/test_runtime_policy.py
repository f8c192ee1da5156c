"""GuidedPolicy: its actions are those of the mathematics, its arguments are checked, and it can be shared."""

from __future__ import annotations

import gc
import threading
import tracemalloc
from dataclasses import FrozenInstanceError, replace
from typing import Any

import numpy as np
import pytest
from dipole_runtime import Bundle, GuidedAction, GuidedPolicy, GuidedPolicyError
from dipole_runtime.manifest import GUIDED, OmegaRange
from dipole_runtime.observations import observation_of
from dipole_runtime.reference import DiffusionSteps, TwoNetworkPolicy
from dipole_runtime.sessions import Network
from runtime_helpers import assert_one_sentence, refusal_of_call
from small_bundles import (
    Sizes,
    SmallPolicy,
    candidates_of,
    denoised_of,
    edited,
    make_files,
    make_policy,
    observation_and_noise,
    q_of,
    rehashed,
)

Files = dict[str, bytes]


OMEGAS = [-1.0, 0.0, 0.3, 1.0, 4.0]


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

    @pytest.mark.parametrize("candidates", [1, 2, 32])
    def test_diffusion(self, diffusion_files: Files, small: SmallPolicy, candidates: int) -> None:
        bundle = Bundle.from_files(diffusion_files, "small")
        policy, reference = GuidedPolicy.from_bundle(bundle), DiffusionSteps(bundle)
        size = policy.manifest.noise_size
        for seed in range(5):
            random = np.random.default_rng(seed)
            observation = random.normal(size=small.sizes.observation).astype(np.float32)
            noise = random.normal(size=(candidates, size)).astype(np.float32)
            expected = denoised_of(small, observation, noise)
            q = q_of(small, observation, expected)
            for result in (policy.act(observation, noise=noise), policy.sweep(observation, [0.0, 0.0], noise)[1]):
                np.testing.assert_allclose(result.q, q, atol=1e-5)
                np.testing.assert_allclose(result.action, expected[q.argmax()], atol=1e-5)
                assert result.omega == 0.0
            found = reference.candidates(observation, noise, np.zeros(2, np.float32))
            np.testing.assert_allclose(found, [expected, expected], atol=1e-5)

    def test_diffusion_draws_from_the_generator_it_is_given(self, diffusion_files: Files) -> None:
        policy = GuidedPolicy.from_bundle(Bundle.from_files(diffusion_files, "small"))
        noise = np.random.default_rng(5).standard_normal((3, policy.manifest.noise_size), np.float32)
        drawn = policy.act(np.ones(3), rng=np.random.default_rng(5))
        np.testing.assert_array_equal(drawn.q, policy.act(np.ones(3), noise=noise).q)
        fixed = policy.deterministic_noise(2)
        assert fixed.shape == (2, policy.manifest.noise_size)
        assert not fixed[0].any()
        noise[1, 3] = np.nan
        with pytest.raises(GuidedPolicyError, match="noise is nan for 'joint_1' of candidate 1"):
            policy.act(np.ones(3), noise=noise)

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
        sentence = refusal_of_call(policy.act, np.zeros(3))
        assert f"the policy's {output} is nan for" in sentence
        assert words in sentence

    def test_a_failing_run(self, policy: GuidedPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*arguments: Any) -> list[Any]:
            raise RuntimeError("out of\nmemory")

        monkeypatch.setattr(policy._network._session, "run", fail)
        assert "guided_policy.onnx failed" in refusal_of_call(policy.act, np.zeros(3))


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
        dict_policy.act(observation_of(dict_policy.manifest.observation, np.ones(7, np.float32)))
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
        assert "expected 0.0 to 1.0" in refusal_of_call(policy.act, np.zeros(3), omega=-1.0)

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
