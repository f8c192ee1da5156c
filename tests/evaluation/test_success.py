"""Success on tasks whose environment reports only a number."""

from __future__ import annotations

import gymnasium
import numpy as np
import pytest

from dipole_sb3.evaluation.success import SuccessFromInfo


def reacher(least: float = -0.02, info: str = "reward_dist") -> SuccessFromInfo:
    return SuccessFromInfo(gymnasium.make("Reacher-v5"), info=info, least=least)


def test_a_step_succeeds_from_the_value_on() -> None:
    rng = np.random.default_rng(0)
    told = []
    for least in (-1.0, -0.2, 0.0):
        env = reacher(least)
        env.reset(seed=0)
        for _ in range(20):
            _, _, _, _, info = env.step(rng.uniform(-1, 1, 2).astype(np.float32))
            assert info["is_success"] is bool(info["reward_dist"] >= least)
            told.append((least, info["is_success"]))
    assert {(-1.0, True), (-0.2, True), (-0.2, False), (0.0, False)} == set(told)


def test_at_the_value_itself_it_succeeds() -> None:
    env = reacher()
    env.reset(seed=0)
    action = np.zeros(2, np.float32)
    distance = env.step(action)[-1]["reward_dist"]
    same = reacher(distance)
    same.reset(seed=0)
    assert same.step(action)[-1]["is_success"] is True


def test_the_environments_own_info_stays() -> None:
    env = reacher()
    env.reset(seed=0)
    assert set(env.step(np.zeros(2, np.float32))[-1]) == {"reward_dist", "reward_ctrl", "is_success"}


def test_an_info_without_the_number_is_refused() -> None:
    env = reacher(info="distance")
    env.reset(seed=0)
    with pytest.raises(
        ValueError, match="info has no 'distance', which success is read from; found reward_dist, reward_ctrl"
    ):
        env.step(np.zeros(2, np.float32))
