"""SB3's test_predict and test_deterministic: shapes, bounds, and what an action is a function of."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from algorithms import parameters_of, same_parameters, small
from recordings import Arrays
from sampled_environments import Sampled, vector_space
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy


@pytest.fixture
def model(algorithm: Any, reacher_data: Arrays) -> Any:
    return small(algorithm, dataset=reacher_data).learn(3)


@pytest.fixture
def observations(reacher_data: Arrays) -> np.ndarray:
    return reacher_data["observations"][:7]


# Shapes


def test_one_observation_gives_one_action(model: Any, observations: np.ndarray) -> None:
    action, state = model.predict(observations[0])
    assert action.shape == (2,)
    assert action.dtype == np.float32
    assert state is None


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_a_batch_gives_a_batch(model: Any, observations: np.ndarray, batch: int) -> None:
    actions, _ = model.predict(observations[:batch])
    assert actions.shape == (batch, 2)
    assert all(model.action_space.contains(action) for action in actions)


def test_observations_of_several_environments(model: Any) -> None:
    env = make_vec_env("Reacher-v5", 3)
    actions, _ = model.predict(env.reset())
    env.step(actions)


@pytest.mark.parametrize("kind", [np.float32, np.float64, list], ids=["float32", "float64", "list"])
def test_observations_of_any_kind(model: Any, observations: np.ndarray, kind: Any) -> None:
    given = observations[0].tolist() if kind is list else observations[0].astype(kind)
    expected = model.predict(observations[0], deterministic=True)[0]
    np.testing.assert_allclose(model.predict(given, deterministic=True)[0], expected, atol=1e-6)


def test_state_is_handed_back(model: Any, observations: np.ndarray) -> None:
    state = (np.zeros(3),)
    assert model.predict(observations[0], state, np.ones(1))[1] is state


def test_gymnasium_tuple_is_explained(model: Any, observations: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"given a tuple.*reset\(\) returns \(observation, info\)"):
        model.predict((observations[0], {}))


@pytest.mark.parametrize("shape", [(4,), (2, 4), (1, 2, 10)])
def test_wrong_shape_is_refused(model: Any, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shape"):
        model.predict(np.zeros(shape, np.float32))


# Determinism


def test_deterministic_does_not_depend_on_random_generators(model: Any, observations: np.ndarray) -> None:
    expected, _ = model.predict(observations, deterministic=True)
    for seed in (1, 2):
        model.set_random_seed(seed)
        assert np.array_equal(model.predict(observations, deterministic=True)[0], expected)
        model.predict(observations)  # draws from them
        assert np.array_equal(model.predict(observations, deterministic=True)[0], expected)


def test_deterministic_does_not_draw_from_random_generators(model: Any, observations: np.ndarray) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    model.predict(observations, deterministic=True)
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[index]


def test_deterministic_does_not_depend_on_the_rest_of_the_batch(model: Any, observations: np.ndarray) -> None:
    together, _ = model.predict(observations, deterministic=True)
    for row, observation in enumerate(observations):
        alone, _ = model.predict(observation, deterministic=True)
        np.testing.assert_allclose(alone, together[row], rtol=1e-5, atol=1e-6)
    turned, _ = model.predict(observations[::-1].copy(), deterministic=True)
    np.testing.assert_allclose(turned[::-1], together, rtol=1e-5, atol=1e-6)
    repeated, _ = model.predict(np.repeat(observations[:1], 300, axis=0), deterministic=True)
    np.testing.assert_allclose(repeated, np.repeat(together[:1], 300, axis=0), rtol=1e-5, atol=1e-6)


def test_deterministic_differs_between_observations(model: Any, observations: np.ndarray) -> None:
    actions, _ = model.predict(observations, deterministic=True)
    # Two may meet in a corner of the action space.
    assert len(np.unique(actions, axis=0)) >= len(observations) - 1


def test_not_deterministic_samples_where_the_policy_draws_at_all(model: Any, observations: np.ndarray) -> None:
    drawn, _ = model.predict(np.repeat(observations[:1], 50, axis=0))
    if not len(model.policy.acting_noise(1, False, **model.policy.setting())):
        np.testing.assert_allclose(drawn, drawn[:1].repeat(50, axis=0), atol=1e-6)
        return
    assert len(np.unique(drawn, axis=0)) > 15  # some meet in the corners of the action space
    again, _ = model.predict(np.repeat(observations[:1], 50, axis=0))
    assert not np.array_equal(drawn, again)


def test_sampling_follows_the_seed(model: Any, observations: np.ndarray) -> None:
    drawn = []
    for _ in range(2):
        model.set_random_seed(7)
        drawn.append([model.predict(observations[0])[0] for _ in range(3)])
    assert np.array_equal(*drawn)


def test_the_policy_predicts_like_the_model(model: Any, observations: np.ndarray) -> None:
    expected, _ = model.predict(observations, deterministic=True)
    np.testing.assert_array_equal(model.policy.predict(observations, deterministic=True)[0], expected)


def test_deterministic_evaluation_repeats(model: Any) -> None:
    returns = []
    for _ in range(2):
        env = make_vec_env("Reacher-v5", 2, seed=3)
        returns.append(evaluate_policy(model, env, n_eval_episodes=2, return_episode_rewards=True)[0])
    assert returns[0] == returns[1]


def test_predict_changes_nothing(model: Any, observations: np.ndarray) -> None:
    before, given = parameters_of(model), observations.copy()
    model.predict(observations)
    assert same_parameters(before, parameters_of(model))
    assert np.array_equal(given, observations)


def test_predict_in_another_thread(model: Any, observations: np.ndarray) -> None:
    expected, _ = model.predict(observations, deterministic=True)
    with ThreadPoolExecutor(2) as pool:
        for actions, _ in pool.map(lambda _: model.predict(observations, deterministic=True), range(4)):
            assert np.array_equal(actions, expected)


def test_actions_are_writable_and_the_callers_own(model: Any, observations: np.ndarray) -> None:
    first, _ = model.predict(observations, deterministic=True)
    kept = first.copy()
    first[:] = 0
    assert np.array_equal(model.predict(observations, deterministic=True)[0], kept)


def test_an_untrained_model_predicts(algorithm: Any) -> None:
    env = Sampled(vector_space())
    model = small(algorithm, env=env)
    assert env.action_space.contains(model.predict(env.observation_space.sample())[0])
