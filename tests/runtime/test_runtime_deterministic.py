"""A deterministic policy: one action for an observation, and nothing that could be turned."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dipole_runtime import Bundle, GuidedPolicy
from dipole_runtime.manifest import DETERMINISTIC
from dipole_runtime.observations import observation_of
from dipole_runtime.reference import TwoNetworkPolicy, ValuedPolicy
from onnx import helper, numpy_helper
from runtime_helpers import refusal_of_call
from small_bundles import (
    Sizes,
    SmallPolicy,
    action_of,
    dict_parts,
    edited,
    make_deterministic_files,
    make_policy,
    observation_and_noise,
    q_of,
)

Files = dict[str, bytes]


def observations(small: SmallPolicy) -> list[Any]:
    return [observation_and_noise(small, seed)[0] for seed in range(8)]


class TestMathematics:
    def test_the_action_and_its_value(self, deterministic_policy: GuidedPolicy, small: SmallPolicy) -> None:
        clipped = 0
        for observation in observations(small):
            result = deterministic_policy.act(observation)
            expected = action_of(small, observation)
            np.testing.assert_allclose(result.action, expected, atol=1e-5)
            np.testing.assert_allclose(result.q, q_of(small, observation, expected[None]), atol=1e-5)
            assert result.action.dtype == result.q.dtype == np.float32
            assert (result.q.shape, result.chosen, result.omega) == ((1,), 0, None)
            assert 0 < result.latency_s < 10
            clipped += int(((expected == small.low) | (expected == small.high)).sum())
        assert clipped, "no action is at a bound: whether they are clipped does not show"

    def test_the_reference_agrees(self, deterministic_files: Files, small: SmallPolicy) -> None:
        reference = ValuedPolicy.of(Bundle.from_files(deterministic_files, "small"))
        rows = np.stack(observations(small))
        actions, q = reference.act(rows)
        np.testing.assert_allclose(actions, [action_of(small, row) for row in rows], atol=1e-5)
        expected = [q_of(small, *pair)[0] for pair in zip(rows, actions[:, None], strict=True)]
        np.testing.assert_allclose(q, expected, atol=1e-5)

    @pytest.mark.parametrize("shape", [(), (2, 3)])
    def test_the_actions_shape_is_the_manifests(self, shape: tuple[int, ...]) -> None:
        small = replace(make_policy(Sizes(action=int(np.prod(shape)))), action_shape=shape)
        policy = GuidedPolicy.from_bundle(Bundle.from_files(make_deterministic_files(small), "b"))
        observation, _ = observation_and_noise(small, 2)
        assert policy.act(observation).action.shape == shape
        np.testing.assert_allclose(policy.act(observation).action.ravel(), action_of(small, observation), atol=1e-5)

    def test_dict_observations(self) -> None:
        small = make_policy(Sizes(observation=7), dict_parts(), seed=5)
        policy = GuidedPolicy.from_bundle(Bundle.from_files(make_deterministic_files(small), "b"))
        flat, _ = observation_and_noise(small, 3)
        parts = observation_of(policy.manifest.observation, flat)
        np.testing.assert_allclose(policy.act(parts).action, action_of(small, flat), atol=1e-5)

    def test_threads_get_what_one_would_get(self, deterministic_policy: GuidedPolicy, small: SmallPolicy) -> None:
        cases = [(observation, deterministic_policy.act(observation).action) for observation in observations(small)]
        differences: list[int] = []

        def work(start: int) -> None:
            for step in range(300):
                observation, expected = cases[(start + step) % len(cases)]
                if not np.array_equal(deterministic_policy.act(observation).action, expected):
                    differences.append(step)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not differences


class TestNothingToTurn:
    NOTHING = "this bundle's policy is deterministic and has nothing to turn"

    @pytest.mark.parametrize(
        ("given", "words"),
        [
            ({"omega": 0.0}, "omega is 0.0, expected none"),
            ({"omega": "much"}, "omega is 'much', expected none"),
            ({"noise": np.zeros((1, 2))}, "noise is given, expected none"),
            ({"num_candidates": 2}, "num_candidates is 2, expected 1 or none"),
        ],
        ids=str,
    )
    def test_act(self, deterministic_policy: GuidedPolicy, given: dict[str, Any], words: str) -> None:
        sentence = refusal_of_call(deterministic_policy.act, np.zeros(3), **given)
        assert words in sentence
        assert self.NOTHING in sentence

    @pytest.mark.parametrize("omegas", [[0.0], [], np.array([0.0, 1.0])])
    def test_sweep(self, deterministic_policy: GuidedPolicy, omegas: Any) -> None:
        assert self.NOTHING in refusal_of_call(deterministic_policy.sweep, np.zeros(3), omegas)

    def test_noise(self, deterministic_policy: GuidedPolicy) -> None:
        assert self.NOTHING in refusal_of_call(deterministic_policy.deterministic_noise)

    def test_a_program_for_both_forms(self, deterministic_policy: GuidedPolicy) -> None:
        """One candidate is what there is; a generator has nothing to draw and stays as it is."""
        rng = np.random.default_rng(0)
        expected = deterministic_policy.act(np.ones(3)).action
        np.testing.assert_array_equal(deterministic_policy.act(np.ones(3), rng=rng).action, expected)
        np.testing.assert_array_equal(deterministic_policy.act(np.ones(3), num_candidates=1).action, expected)
        assert rng.random() == np.random.default_rng(0).random()

    @pytest.mark.parametrize("count", [0, True, "1", 4097])
    def test_what_is_no_number_of_candidates(self, deterministic_policy: GuidedPolicy, count: Any) -> None:
        assert "num_candidates is" in refusal_of_call(deterministic_policy.act, np.zeros(3), num_candidates=count)

    def test_two_networks(self, deterministic_files: Files) -> None:
        bundle = Bundle.from_files(deterministic_files, "b")
        assert "expected a pair" in refusal_of_call(TwoNetworkPolicy, bundle)


class TestObservations:
    @pytest.mark.parametrize(
        ("observation", "words"),
        [(np.zeros(4), "shape (4,)"), (np.array([0, np.nan, 0]), "nan for 'observation_1'"), (None, "object")],
        ids=str,
    )
    def test_other_things(self, deterministic_policy: GuidedPolicy, observation: Any, words: str) -> None:
        assert words in refusal_of_call(deterministic_policy.act, observation)

    @pytest.mark.parametrize(("output", "words"), [("action", "for 'joint_0'"), ("q", "for candidate 0")])
    def test_results_that_are_not_finite(self, deterministic_files: Files, output: str, words: str) -> None:
        """Passes the test vectors, and gives NaN where an observation is zero."""

        def edit(model: Any) -> None:
            (node,) = [node for node in model.graph.node if output in node.output]
            node.output[0] = f"{output}_before"
            model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
            model.graph.node.extend(
                [
                    helper.make_node("ReduceSumSquare", ["observation", "axis"], ["length"], keepdims=0),
                    helper.make_node("Div", ["length", "length"], ["one_or_nan"]),
                    helper.make_node("ReduceMax", ["one_or_nan"], ["factor"], keepdims=0),
                    helper.make_node("Mul", [f"{output}_before", "factor"], [output]),
                ]
            )

        policy = GuidedPolicy.from_bundle(Bundle.from_files(edited(deterministic_files, DETERMINISTIC, edit), "b"))
        policy.act(np.ones(3))
        sentence = refusal_of_call(policy.act, np.zeros(3))
        assert f"the policy's {output} is nan" in sentence
        assert words in sentence
