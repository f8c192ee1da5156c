"""The score of many plans at once beside a plain one, plan by plan."""

import numpy as np
import plain_driving_score as plain
import pytest
from random_driving import random_plans, random_scene
from test_scenes_by_hand import SCENES

from dipole_sb3.driving.score import driven, score_plans

PARTS = ("no_collision", "drivable_area", "progress", "time_to_collision", "comfort", "pdms")


def compared(surroundings, plans):
    scores = score_plans([surroundings], plans[None])
    fast = np.stack([getattr(scores, part)[0] for part in PARTS], axis=-1)
    slow = np.array([plain.score_plan(surroundings, plan) for plan in plans])
    np.testing.assert_array_equal(fast[:, [0, 1, 3, 4]], slow[:, [0, 1, 3, 4]])
    np.testing.assert_allclose(fast, slow, rtol=0, atol=1e-9)
    return slow


@pytest.mark.parametrize("name", SCENES)
def test_scenes_by_hand_score_alike(name):
    surroundings, plan, _ = SCENES[name]

    compared(surroundings, plan[None])


def test_random_plans_in_random_traffic_score_alike():
    generator = np.random.default_rng(3)
    scores = []
    for _ in range(10):
        surroundings = random_scene(generator)
        scores.append(compared(surroundings, random_plans(generator, surroundings.ego.velocity[0], 4)))
    values = np.concatenate(scores)
    # The scenes are worth comparing: each part has both good and bad plans.
    for part in (0, 1, 3, 4):
        assert set(values[:, part]) >= {0, 1}, PARTS[part]


def test_driven_states_are_alike():
    generator = np.random.default_rng(1)
    surroundings = random_scene(generator)
    plans = random_plans(generator, surroundings.ego.velocity[0], 20)

    states = driven(surroundings.ego, plans)

    slow = [plain.drive(surroundings.ego, plain.followed(surroundings.ego, plan)) for plan in plans]
    np.testing.assert_allclose(states, np.array(slow), rtol=0, atol=1e-9)
