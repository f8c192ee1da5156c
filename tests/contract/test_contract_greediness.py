"""What algorithms with a greediness ω and N candidates add to the contract."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from algorithms import ALGORITHMS, one_sentence, small
from recordings import Arrays
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from dipole_sb3 import DIPOLE

GUIDED = [algorithm for algorithm in ALGORITHMS if hasattr(algorithm, "omega")]
OUT_OF_RANGE = [-1.01, float("nan"), float("inf"), float("-inf")]


@pytest.fixture(params=GUIDED, ids=[algorithm.__name__ for algorithm in GUIDED])
def algorithm(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def model(algorithm: Any, reacher_data: Arrays) -> Any:
    return small(algorithm, dataset=reacher_data).learn(20)


@pytest.fixture
def observations(reacher_data: Arrays) -> np.ndarray:
    return reacher_data["observations"][:6]


def actions(model: Any, observations: np.ndarray, **arguments: Any) -> np.ndarray:
    return model.predict(observations, deterministic=True, **arguments)[0]  # type: ignore[no-any-return]


def test_omega_changes_the_action(model: Any, observations: np.ndarray) -> None:
    values = [actions(model, observations, omega=omega, num_candidates=1) for omega in (-1, 0, 0.5, 2.0)]
    for index, value in enumerate(values):
        for other in values[index + 1 :]:
            assert not np.allclose(value, other, atol=1e-4)


def test_the_properties_are_the_defaults(model: Any, observations: np.ndarray) -> None:
    asked = actions(model, observations, omega=3.0, num_candidates=5)
    model.omega, model.num_candidates = 3.0, 5
    assert (model.omega, model.num_candidates) == (3.0, 5)
    assert np.array_equal(actions(model, observations), asked)
    assert np.array_equal(actions(model, observations, omega=None, num_candidates=None), asked)
    assert np.array_equal(model.policy.predict(observations, deterministic=True)[0], asked)


def test_omega_zero_is_asked_for_not_the_default(model: Any, observations: np.ndarray) -> None:
    model.omega = 2.0
    zero = actions(model, observations, omega=0, num_candidates=1)
    model.omega = 0.0
    assert np.array_equal(actions(model, observations, num_candidates=1), zero)


def test_arguments_do_not_stick(model: Any, observations: np.ndarray) -> None:
    before = actions(model, observations)
    actions(model, observations, omega=4.0, num_candidates=3)
    assert np.array_equal(actions(model, observations), before)
    assert (model.omega, model.num_candidates) == (0.5, 2)


@pytest.mark.parametrize(
    "omega", [2, 2.0, np.float32(2), np.float64(2), np.int64(2), np.array(2.0)], ids=lambda omega: type(omega).__name__
)
def test_omega_is_a_number_of_any_kind(model: Any, observations: np.ndarray, omega: Any) -> None:
    expected = actions(model, observations, omega=2.0)
    assert np.array_equal(actions(model, observations, omega=omega), expected)
    model.omega = omega
    assert type(model.omega) is float
    assert np.array_equal(actions(model, observations), expected)


@pytest.mark.parametrize("kind", [np.float32, np.float64, list], ids=["float32", "float64", "list"])
@pytest.mark.parametrize("num_candidates", [1, 3])
def test_one_omega_per_observation(model: Any, observations: np.ndarray, num_candidates: int, kind: Any) -> None:
    values = [-1.0, -0.5, 0.0, 0.5, 2.0, 4.0]
    omegas = values if kind is list else np.array(values, kind)
    together = actions(model, observations, omega=omegas, num_candidates=num_candidates)
    for row, omega in enumerate(values):
        alone = actions(model, observations, omega=omega, num_candidates=num_candidates)[row]
        np.testing.assert_allclose(together[row], alone, rtol=1e-4, atol=1e-5)


def test_one_omega_for_one_observation(model: Any, observations: np.ndarray) -> None:
    alone = actions(model, observations[0], omega=np.array([2.0]))
    np.testing.assert_allclose(alone, actions(model, observations[0], omega=2.0), rtol=1e-4, atol=1e-5)
    assert alone.shape == (2,)


@pytest.mark.parametrize("shape", [(5,), (1,), (0,), (6, 1), (6, 2)])
def test_omegas_of_another_shape_are_refused(model: Any, observations: np.ndarray, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="omega has shape") as refusal:
        actions(model, observations, omega=np.zeros(shape))
    one_sentence(refusal.value, str(shape), "expected", "6 observations")


@pytest.mark.parametrize("omega", OUT_OF_RANGE)
def test_omega_out_of_range_is_refused(model: Any, observations: np.ndarray, omega: float) -> None:
    with pytest.raises(ValueError, match=r"omega is .*, expected a finite number of at least -1") as refusal:
        model.omega = omega
    one_sentence(refusal.value, str(omega))
    for argument in (omega, np.array([0, 0, omega, 0, 0, 0])):
        with pytest.raises(ValueError, match="omega is"):
            actions(model, observations, omega=argument)
    assert model.omega == model.policy.omega == 0.5


@pytest.mark.parametrize("num_candidates", [0, -1, 1.5])
def test_candidates_out_of_range_are_refused(model: Any, observations: np.ndarray, num_candidates: Any) -> None:
    with pytest.raises(ValueError, match=r"num_candidates is .*, expected a whole number of at least 1"):
        model.num_candidates = num_candidates
    with pytest.raises(ValueError, match="num_candidates is"):
        actions(model, observations, num_candidates=num_candidates)
    assert model.num_candidates == model.policy.num_candidates == 2


def test_more_candidates_are_better_in_the_critics_eyes(model: Any, reacher_data: Arrays) -> None:
    """With fixed noise the fewer are among the more, so that no observation can get worse."""
    observations = reacher_data["observations"][:100]
    values = []
    for num_candidates in (1, 4, 16):
        chosen = torch.as_tensor(actions(model, observations, num_candidates=num_candidates))
        values.append(model.policy.q_values(torch.as_tensor(observations, dtype=torch.float32), chosen))
    for fewer, more in pairwise(values):
        assert (more >= fewer - 1e-5).all()
        assert more.mean() > fewer.mean()


# Saving


def test_it_is_saved_and_loaded(algorithm: Any, model: Any, tmp_path: Path) -> None:
    model.omega, model.num_candidates = 2.5, 7
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model")
    assert (loaded.omega, loaded.num_candidates) == (2.5, 7)
    assert (loaded.policy.omega, loaded.policy.num_candidates) == (2.5, 7)


def test_it_is_changed_on_load(algorithm: Any, model: Any, tmp_path: Path) -> None:
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", omega=4.0, num_candidates=3)
    assert (loaded.omega, loaded.policy.omega, loaded.num_candidates) == (4.0, 4.0, 3)
    with pytest.raises(ValueError, match="omega is -3"):
        algorithm.load(tmp_path / "model", omega=-3.0)


def test_it_is_part_of_a_saved_policy(model: Any, observations: np.ndarray, tmp_path: Path) -> None:
    model.omega, model.num_candidates = 2.5, 7
    model.policy.save(tmp_path / "policy.pt")
    policy = type(model.policy).load(tmp_path / "policy.pt")
    assert (policy.omega, policy.num_candidates) == (2.5, 7)
    assert np.array_equal(policy.predict(observations, deterministic=True)[0], actions(model, observations))


def test_it_is_not_part_of_the_parameters(algorithm: Any, model: Any, reacher_data: Arrays) -> None:
    model.omega = 2.5
    other = small(algorithm, dataset=reacher_data)
    other.set_parameters(model.get_parameters())
    assert other.omega == 0.5


# Acting and learning


def test_evaluate_policy_acts_with_the_property(model: Any) -> None:
    returns = []
    for omega in (-1.0, 2.0, -1.0):
        model.omega = omega
        env = DummyVecEnv([lambda: Monitor(gymnasium.make("Reacher-v5"))])
        env.seed(0)
        returns.append(evaluate_policy(model, env, n_eval_episodes=1)[0])
    assert returns[0] == returns[2] != returns[1]


def test_exploration_has_its_own_omega(algorithm: Any, pendulum_data: Arrays) -> None:
    def gathered(**arguments: float) -> np.ndarray:
        model = small(algorithm, env="Pendulum-v1", dataset=pendulum_data, offline_steps=20, train_freq=5, **arguments)
        model.learn(25, callback=lambda *_: model.omega == model.policy.omega == arguments["omega"])
        assert model.num_timesteps == 25
        return np.array(model.replay_buffer.actions[:5])

    expected = gathered(omega=0.5, explore_omega=0.0)
    assert np.array_equal(gathered(omega=3.0, explore_omega=0.0), expected)
    assert not np.array_equal(gathered(omega=0.5, explore_omega=3.0), expected)


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
def test_hyperparameters_out_of_range_are_refused(name: str, value: Any, reacher_data: Arrays, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=rf"^{name} is .*expected") as refusal:
        small(DIPOLE, dataset=reacher_data, **{name: value})
    one_sentence(refusal.value, str(value))
    small(DIPOLE, dataset=reacher_data).save(tmp_path / "model")
    with pytest.raises(ValueError, match=rf"^{name} is .*expected"):
        DIPOLE.load(tmp_path / "model", **{name: value})
