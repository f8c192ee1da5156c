"""What holds for the score of any plan in any scene."""

from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_driving import random_plans, random_scene
from straight_roads import moved, scene, straight, track

from dipole_sb3.driving.scene import Scores, Tracks
from dipole_sb3.driving.score import ScoringPool, driven, score_plans

seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=15, deadline=None)


def drawn(seed, count, others=6):
    generator = np.random.default_rng(seed)
    surroundings = random_scene(generator, others)
    return surroundings, random_plans(generator, surroundings.ego.velocity[0], count)


def arrays(scores):
    return np.stack([getattr(scores, field.name) for field in fields(Scores)])


def chosen(tracks, keep):
    return Tracks(
        tuple(kind for kind, kept in zip(tracks.kinds, keep, strict=True) if kept),
        tracks.poses[keep],
        tracks.sizes[keep],
        tracks.velocities[keep],
    )


@few
@given(seeds, st.floats(-np.pi, np.pi), st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
def test_a_rigid_motion_of_everything_changes_nothing(seed, angle, x, y):
    surroundings, plans = drawn(seed, 10)

    elsewhere = score_plans([moved(surroundings, angle, np.array([x, y]))], plans[None])

    np.testing.assert_allclose(arrays(elsewhere), arrays(score_plans([surroundings], plans[None])), rtol=0, atol=1e-7)


@few
@given(seeds, st.lists(st.booleans(), min_size=8, max_size=8))
def test_removing_tracks_lowers_neither_no_collision_nor_time_to_collision(seed, keep):
    surroundings, plans = drawn(seed, 10, others=8)
    fewer = replace(surroundings, tracks=chosen(surroundings.tracks, np.array(keep)))

    before, after = score_plans([surroundings, fewer], np.stack([plans, plans])).no_collision
    assert (after >= before).all()
    before, after = score_plans([surroundings, fewer], np.stack([plans, plans])).time_to_collision
    assert (after >= before).all()


@few
@given(st.lists(seeds, min_size=1, max_size=4), st.integers(1, 9))
def test_each_plan_scores_as_if_it_were_alone_to_the_last_bit(some_seeds, count):
    surroundings, plans = zip(*(drawn(seed, count) for seed in some_seeds), strict=True)

    together = arrays(score_plans(surroundings, np.stack(plans)))

    for row, (one, group) in enumerate(zip(surroundings, plans, strict=True)):
        for column, plan in enumerate(group):
            alone = arrays(score_plans([one], plan[None, None]))
            np.testing.assert_array_equal(together[:, row, column], alone[:, 0, 0])


def test_a_plan_is_driven_as_if_it_were_alone_to_the_last_bit():
    surroundings, plans = drawn(5, 37)

    together = driven(surroundings.ego, plans)

    for plan, states in zip(plans, together, strict=True):
        np.testing.assert_array_equal(driven(surroundings.ego, plan[None])[0], states)


@pytest.fixture(scope="module")
def pool():
    with ScoringPool(processes=2) as pool:
        yield pool


@pytest.mark.parametrize("scenes", [1, 2, 5])
def test_a_pool_scores_as_this_process_does_to_the_last_bit(pool, scenes):
    surroundings, plans = zip(*(drawn(seed, 6) for seed in range(scenes)), strict=True)

    for _ in range(2):
        np.testing.assert_array_equal(
            arrays(pool.score_plans(surroundings, np.stack(plans))), arrays(score_plans(surroundings, np.stack(plans)))
        )


def test_a_pool_takes_scenes_in_another_order_and_number(pool):
    surroundings, plans = zip(*(drawn(seed, 3) for seed in range(4)), strict=True)
    pool.score_plans(surroundings, np.stack(plans))

    again = [surroundings[index] for index in (3, 0, 0)]
    plans = np.stack([plans[index] for index in (3, 0, 0)])

    np.testing.assert_array_equal(arrays(pool.score_plans(again, plans)), arrays(score_plans(again, plans)))


def test_a_pool_forgets_scenes_that_are_gone(pool):
    plan = straight(10)[None, None]
    for distance in range(20, 50, 5):
        # The same address in memory, now and then: what a process kept of the scene before must not be used.
        found = pool.score_plans([scene(track(x=distance))], plan)
        assert found.no_collision[0, 0] == (distance > 46), distance


def test_a_pool_reports_what_is_wrong_and_goes_on(pool):
    good = scene()
    bad = replace(good, reference=good.reference[:40])
    with pytest.raises(ValueError, match="reference of the surroundings"):
        pool.score_plans([good, bad], np.stack([straight(10)[None]] * 2))
    assert pool.score_plans([good], straight(10)[None, None]).pdms[0, 0] == 1


def test_a_pool_whose_process_dies_says_so_and_is_closed():
    with ScoringPool(processes=1) as pool:
        pool._workers[0].process.kill()
        with pytest.raises(ChildProcessError, match="this pool is closed"):
            pool.score_plans([scene()], straight(10)[None, None])
        with pytest.raises(ValueError, match="closed"):
            pool.score_plans([scene()], straight(10)[None, None])


def test_a_pool_needs_a_process():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        ScoringPool(processes=0)
