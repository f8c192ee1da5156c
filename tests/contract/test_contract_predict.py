"""predict(): shapes, bounds, determinism, and the two arguments beyond SB3's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from algorithms import parameters_of, same_parameters, small
from gymnasium import spaces

from dipole_sb3 import DIPOLE, OfflineReplayBuffer


@pytest.fixture
def model(algorithm: Any, reacher_data: dict[str, Any]) -> Any:
    return small(algorithm, dataset=reacher_data).learn(3)


def test_one_observation_gives_one_action(model: Any, reacher_data: dict[str, Any]) -> None:
    action, state = model.predict(reacher_data["observations"][0])
    assert action.shape == (2,)
    assert action.dtype == np.float32
    assert state is None


def test_a_batch_gives_a_batch(model: Any, reacher_data: dict[str, Any]) -> None:
    actions, _ = model.predict(reacher_data["observations"][:7])
    assert actions.shape == (7, 2)


def test_state_is_handed_back(model: Any, reacher_data: dict[str, Any]) -> None:
    state = (np.zeros(3),)
    assert model.predict(reacher_data["observations"][0], state=state)[1] is state


def test_actions_are_in_the_space(algorithm: Any) -> None:
    space = spaces.Box(np.array([-2.0, 10.0], np.float32), np.array([5.0, 30.0], np.float32))
    random = np.random.default_rng(0)
    data = {
        "observations": random.normal(size=(100, 3)).astype(np.float32),
        "actions": random.uniform(space.low, space.high, (100, 2)),
        "rewards": random.normal(size=100),
        "next_observations": random.normal(size=(100, 3)).astype(np.float32),
        "masks": np.ones(100),
    }
    model = small(algorithm, dataset=OfflineReplayBuffer.from_arrays(data, action_space=space)).learn(2)
    actions, _ = model.predict(random.normal(size=(500, 3)))
    assert actions.min(axis=0) == pytest.approx(space.low, abs=2.0)
    assert actions.max(axis=0) == pytest.approx(space.high, abs=4.0)
    assert all(space.contains(action) for action in actions)


def test_deterministic_is_a_function_of_the_observation(model: Any, reacher_data: dict[str, Any]) -> None:
    observations = reacher_data["observations"][:5]
    together, _ = model.predict(observations, deterministic=True)
    torch.manual_seed(123)
    for observation, expected in zip(observations, together, strict=True):
        alone, _ = model.predict(observation, deterministic=True)
        np.testing.assert_allclose(alone, expected, rtol=1e-5, atol=1e-6)
    again, _ = model.predict(observations[::-1].copy(), deterministic=True)
    np.testing.assert_allclose(again[::-1], together, rtol=1e-5, atol=1e-6)


def test_not_deterministic_samples(model: Any, reacher_data: dict[str, Any]) -> None:
    observation = reacher_data["observations"][0]
    drawn = {tuple(model.predict(observation)[0]) for _ in range(5)}
    assert len(drawn) == 5


def test_sampling_follows_the_seed(model: Any, reacher_data: dict[str, Any]) -> None:
    observation = reacher_data["observations"][0]
    first, again = [], []
    for actions in (first, again):
        model.set_random_seed(7)
        actions.extend(model.predict(observation)[0] for _ in range(3))
    assert np.array_equal(first, again)


def test_policy_predicts_like_the_model(model: Any, reacher_data: dict[str, Any]) -> None:
    observation = reacher_data["observations"][:2]
    np.testing.assert_array_equal(
        model.predict(observation, deterministic=True)[0], model.policy.predict(observation, deterministic=True)[0]
    )


def test_gymnasium_tuple_is_explained(model: Any, reacher_data: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"given a tuple.*reset\(\) returns \(observation, info\)"):
        model.predict((reacher_data["observations"][0], {}))


def test_wrong_shape_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="shape"):
        model.predict(np.zeros(4, np.float32))


def test_predict_changes_nothing(model: Any, reacher_data: dict[str, Any]) -> None:
    before = parameters_of(model)
    model.predict(reacher_data["observations"])
    assert same_parameters(before, parameters_of(model))


class TestGreediness:
    """What DIPOLE adds: ω and N."""

    @pytest.fixture
    def model(self, reacher_data: dict[str, Any]) -> DIPOLE:
        trained: DIPOLE = small(DIPOLE, dataset=reacher_data).learn(20)
        return trained

    def actions(self, model: DIPOLE, data: dict[str, Any], **arguments: Any) -> np.ndarray:
        return model.predict(data["observations"][:6], deterministic=True, **arguments)[0]

    def test_omega_changes_the_action(self, model: DIPOLE, reacher_data: dict[str, Any]) -> None:
        values = [self.actions(model, reacher_data, omega=omega, num_candidates=1) for omega in (-1.0, 0.0, 2.0)]
        assert not np.allclose(values[0], values[1])
        assert not np.allclose(values[1], values[2])

    def test_property_is_the_default(self, model: DIPOLE, reacher_data: dict[str, Any]) -> None:
        asked = self.actions(model, reacher_data, omega=3.0, num_candidates=5)
        model.omega, model.num_candidates = 3.0, 5
        assert np.array_equal(self.actions(model, reacher_data), asked)

    def test_an_argument_does_not_stick(self, model: DIPOLE, reacher_data: dict[str, Any]) -> None:
        before = self.actions(model, reacher_data)
        self.actions(model, reacher_data, omega=4.0, num_candidates=3)
        assert np.array_equal(self.actions(model, reacher_data), before)
        assert (model.omega, model.num_candidates) == (0.5, 2)

    @pytest.mark.parametrize("candidates", [1, 3])
    def test_one_omega_per_observation(self, model: DIPOLE, reacher_data: dict[str, Any], candidates: int) -> None:
        omegas = np.array([-1.0, -0.5, 0.0, 0.5, 2.0, 4.0])
        together = self.actions(model, reacher_data, omega=omegas, num_candidates=candidates)
        for row, omega in enumerate(omegas):
            alone = self.actions(model, reacher_data, omega=omega, num_candidates=candidates)[row]
            np.testing.assert_allclose(together[row], alone, rtol=1e-4, atol=1e-5)

    def test_candidates_raise_the_critics_opinion(self, model: DIPOLE, reacher_data: dict[str, Any]) -> None:
        observations = torch.as_tensor(reacher_data["observations"][:100])
        values = []
        for candidates in (1, 16):
            torch.manual_seed(0)
            actions, _ = model.predict(observations.numpy(), omega=0.0, num_candidates=candidates)
            values.append(model.policy.q_values(observations, torch.as_tensor(actions)).mean().item())
        assert values[1] > values[0]

    @pytest.mark.parametrize("omega", [-1.01, float("nan"), float("inf")])
    def test_omega_out_of_range_is_refused(self, model: DIPOLE, reacher_data: dict[str, Any], omega: float) -> None:
        with pytest.raises(ValueError, match=r"omega is .*, expected a finite number of at least -1"):
            model.omega = omega
        with pytest.raises(ValueError, match="omega is"):
            self.actions(model, reacher_data, omega=omega)
        with pytest.raises(ValueError, match="omega is"):
            self.actions(model, reacher_data, omega=np.full(6, omega))
        assert model.omega == 0.5

    @pytest.mark.parametrize("shape", [(5,), (6, 1)])
    def test_omegas_of_another_shape_are_refused(
        self, model: DIPOLE, reacher_data: dict[str, Any], shape: tuple[int, ...]
    ) -> None:
        with pytest.raises(ValueError, match="omega has shape"):
            self.actions(model, reacher_data, omega=np.zeros(shape))

    @pytest.mark.parametrize("candidates", [0, -1, 1.5])
    def test_candidates_out_of_range_are_refused(self, model: DIPOLE, candidates: Any) -> None:
        with pytest.raises(ValueError, match=r"num_candidates is .*, expected a whole number of at least 1"):
            model.num_candidates = candidates

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("beta", 0.0),
            ("shift", float("nan")),
            ("gamma", 1.5),
            ("tau", 0.0),
            ("expectile", 1.0),
            ("critic_target", "q"),
            ("q_agg", "max"),
            ("omega", -2.0),
            ("num_candidates", 0),
            ("explore_omega", -1.5),
            ("flow_steps", 0),
        ],
    )
    def test_hyperparameters_out_of_range_are_refused(
        self, name: str, value: Any, reacher_data: dict[str, Any]
    ) -> None:
        with pytest.raises(ValueError, match=f"{name} is .*expected"):
            small(DIPOLE, dataset=reacher_data, **{name: value})
