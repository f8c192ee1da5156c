"""What act and sweep accept, and how they refuse the rest: one sentence that names it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from dipole_runtime import Bundle, GuidedPolicy, read_bundle
from dipole_runtime.observations import all_finite, observation_of
from runtime_helpers import refusal_of_call
from small_bundles import (
    Array,
    Sizes,
    SmallPolicy,
    candidates_of,
    dict_parts,
    make_files,
    make_policy,
    observation_and_noise,
    q_of,
)

Files = dict[str, bytes]


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
        assert words in refusal_of_call(policy.act, observation)

    @pytest.mark.parametrize(("value", "words"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (1e39, "inf")])
    @pytest.mark.parametrize("dtype", [np.float64, np.float32])
    def test_not_finite(self, policy: GuidedPolicy, value: float, words: str, dtype: Any) -> None:
        if value == 1e39 and dtype == np.float32:
            return
        for index in range(3):
            observation = np.zeros(3, dtype)
            observation[index] = value
            sentence = refusal_of_call(policy.act, observation)
            assert f"observation is {words} for 'observation_{index}' (element {index})" in sentence

    def test_the_largest_numbers_are_finite(self) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for values in ([3e38, -3e38, 1e-45], [0.0], [3.4e38] * 100):
                assert all_finite(np.array(values, np.float32))
            for values in ([np.nan, 0], [0, np.inf], [np.inf, -np.inf], [3e38, np.nan]):
                assert not all_finite(np.array(values, np.float32))
                assert not all_finite(np.array([values, values], np.float32))

    def test_a_flat_shape_is_told_once(self, policy: GuidedPolicy) -> None:
        assert refusal_of_call(policy.act, np.zeros(4)).endswith("shape (4,), expected real numbers of shape (3,)")

    def test_a_shape_of_its_own(self) -> None:
        parts = (replace(dict_parts()[1], key=None, shape=(2, 3)),)
        policy = GuidedPolicy.from_bundle(Bundle.from_files(make_files(make_policy(Sizes(6), parts)), "b"))
        noise = policy.deterministic_noise()
        image = np.arange(6.0).reshape(2, 3)
        np.testing.assert_array_equal(policy.act(image, noise=noise).q, policy.act(image.ravel(), noise=noise).q)
        assert "shape (3, 2), expected real numbers of shape (2, 3) or (6,)" in refusal_of_call(policy.act, image.T)


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
        assert words in refusal_of_call(dict_policy.act, observation)

    @pytest.mark.parametrize("observation", [np.zeros(7), [0.0] * 7, None, "goal", {}])
    def test_no_mapping(self, dict_policy: GuidedPolicy, observation: Any) -> None:
        assert "expected a mapping with the keys 'goal', 'arm', 'buttons'" in refusal_of_call(
            dict_policy.act, observation
        )


class TestArguments:
    @pytest.mark.parametrize(
        "omega",
        [
            *(-1.001, 4.001, np.nan, np.inf, -np.inf, 1e400, 10**400, "much", "0.5", b"1", [1.0, 2.0], {}, 1j),
            *(True, False, np.True_, np.array(True), np.array(True, object), np.array([1.0]), np.array("0.5")),
            *(np.timedelta64(1), np.array(None)),
        ],
        ids=repr,
    )
    def test_omega(self, policy: GuidedPolicy, omega: Any) -> None:
        assert "omega is" in refusal_of_call(policy.act, np.zeros(3), omega=omega)
        assert "omega is" in refusal_of_call(policy.sweep, np.zeros(3), [0.0, omega])

    @pytest.mark.parametrize(
        "omega", [-1, 4, np.float32(0.5), np.float64(2), np.int8(1), np.array(1.0), Fraction(1, 2)]
    )
    def test_omegas_of_many_types(self, policy: GuidedPolicy, omega: Any) -> None:
        assert policy.act(np.zeros(3), omega=omega).omega == float(omega)

    @pytest.mark.parametrize(
        "omegas",
        [[], 0.5, None, "0.5", np.array(1.0), True, b"\x01", bytearray(b"\x01"), {0.0, 1.0}, {0.0: 1.0}, {}.keys()],
    )
    def test_omegas(self, policy: GuidedPolicy, omegas: Any) -> None:
        assert "omegas is" in refusal_of_call(policy.sweep, np.zeros(3), omegas)

    @pytest.mark.parametrize("omegas", [[0.0, True], np.array([False, True]), np.zeros((2, 1)), [None], ["1"]])
    def test_omegas_that_are_no_numbers(self, policy: GuidedPolicy, omegas: Any) -> None:
        assert "expected a number" in refusal_of_call(policy.sweep, np.zeros(3), omegas)

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
            (np.ones((3, 2), bool), "of type bool, expected an array of numbers"),
            ([["1", "2"]], "expected an array of numbers"),
            (True, "of type bool, expected an array of numbers"),
            (np.ones((3, 2), complex), "complex"),
            (np.array([[0, 0], [0, np.nan]]), "noise is nan for 'joint_1' of candidate 1"),
            (np.array([[0, 0], [np.inf, 0]]), "noise is inf for 'joint_0' of candidate 1"),
            (np.array([[0, 0], [1e39, 0]]), "noise is inf for 'joint_0' of candidate 1"),
        ],
        ids=str,
    )
    def test_noise(self, policy: GuidedPolicy, noise: Any, words: str) -> None:
        assert words in refusal_of_call(policy.act, np.zeros(3), noise=noise)
        assert words in refusal_of_call(policy.sweep, np.zeros(3), [0.0], noise=noise)

    @pytest.mark.parametrize("count", [0, -1, 4097, 1.5, 2.0, True, False, np.True_, "3", np.nan, 10**30, [1]])
    def test_num_candidates(self, policy: GuidedPolicy, count: Any) -> None:
        for call in (policy.act, policy.deterministic_noise):
            arguments = (np.zeros(3),) if call == policy.act else ()
            assert "num_candidates is" in refusal_of_call(call, *arguments, num_candidates=count)

    @pytest.mark.parametrize("count", [1, 5, np.int64(7), 4096])
    def test_numbers_of_candidates(self, policy: GuidedPolicy, count: Any) -> None:
        assert policy.act(np.zeros(3), num_candidates=count).q.shape == (count,)

    def test_noise_and_its_number(self, policy: GuidedPolicy) -> None:
        noise = policy.deterministic_noise(5)
        assert policy.act(np.zeros(3), noise=noise).q.shape == (5,)
        assert policy.act(np.zeros(3), noise=noise, num_candidates=5).q.shape == (5,)
        assert "expected (4, 2)" in refusal_of_call(policy.act, np.zeros(3), noise=noise, num_candidates=4)

    def test_more_than_one_run_may_be_asked_for(self, policy: GuidedPolicy) -> None:
        assert "65536" in refusal_of_call(policy.sweep, np.zeros(3), [0.0] * 17, num_candidates=4096)
        assert len(policy.sweep(np.zeros(3), [0.0] * 16, num_candidates=4096)) == 16

    @pytest.mark.parametrize("rng", [0, True, "seed", np.random.RandomState(0)])
    def test_rng(self, policy: GuidedPolicy, deterministic_policy: GuidedPolicy, rng: Any) -> None:
        """Also where nothing would be drawn."""
        noise = policy.deterministic_noise()
        for words in (
            refusal_of_call(policy.act, np.zeros(3), rng=rng),
            refusal_of_call(policy.act, np.zeros(3), noise=noise, rng=rng),
            refusal_of_call(policy.sweep, np.zeros(3), [0.0], noise=noise, rng=rng),
            refusal_of_call(deterministic_policy.act, np.zeros(3), rng=rng),
        ):
            assert "numpy.random.Generator" in words

    @pytest.mark.parametrize("turned", [{"omega": False}, {"omega": True}, {"num_candidates": True}])
    def test_booleans_for_a_deterministic_policy(
        self, deterministic_policy: GuidedPolicy, turned: dict[str, Any]
    ) -> None:
        (name,) = turned
        assert f"{name} is {turned[name]}" in refusal_of_call(deterministic_policy.act, np.zeros(3), **turned)

    @pytest.mark.parametrize("path", [True, False, 0, 3, 1.5, None, b"bundle", ["bundle"]])
    def test_what_is_no_path(self, path: Any) -> None:
        """A whole number would be an open file's."""
        for call in (GuidedPolicy.load, read_bundle):
            assert "path is" in refusal_of_call(call, path)

    @pytest.mark.parametrize("threads", [0, -1, 1.5, True, np.True_, "2", None])
    def test_threads(self, files: Files, threads: Any) -> None:
        bundle = Bundle.from_files(files, "b")
        assert "threads is" in refusal_of_call(GuidedPolicy.from_bundle, bundle, threads=threads)

    def test_two_threads(self, files: Files, policy: GuidedPolicy) -> None:
        other = GuidedPolicy.from_bundle(Bundle.from_files(files, "b"), threads=2)
        noise = policy.deterministic_noise()
        np.testing.assert_allclose(
            other.act(np.ones(3), noise=noise).q, policy.act(np.ones(3), noise=noise).q, atol=1e-6
        )

    @pytest.mark.parametrize("providers", [["NoSuchProvider"], ["CPUExecutionProvider", "NoSuchProvider"], []])
    def test_providers(self, files: Files, providers: list[str]) -> None:
        sentence = refusal_of_call(GuidedPolicy.from_bundle, Bundle.from_files(files, "b"), providers=providers)
        assert "CPUExecutionProvider" in sentence

    def test_a_provider_that_does_not_start(self, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        """ONNX Runtime leaves it out and goes on with the others."""
        monkeypatch.setattr("onnxruntime.InferenceSession.get_providers", lambda self: ["OtherProvider"])
        sentence = refusal_of_call(GuidedPolicy.from_bundle, Bundle.from_files(files, "b"))
        assert "CPUExecutionProvider cannot start" in sentence

    def test_providers_that_are_there(self, files: Files) -> None:
        bundle = Bundle.from_files(files, "b")
        GuidedPolicy.from_bundle(bundle, providers=["CPUExecutionProvider"])
        GuidedPolicy.from_bundle(bundle, providers=[("CPUExecutionProvider", {})])
