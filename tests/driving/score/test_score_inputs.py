"""What the score makes of bad and of empty input."""

from dataclasses import replace

import numpy as np
import pytest
from straight_roads import NOBODY, scene, straight, track

from dipole_sb3.driving.scene import Roads
from dipole_sb3.driving.score import driven, score_plans

FREE = scene()
PLAN = straight(10)[None, None]
TRACKS = scene(track(x=100)).tracks
EMPTY = np.empty(0, object)


def without(plans, index, value=np.nan):
    plans = plans.copy()
    plans[index] = value
    return plans


@pytest.mark.parametrize(
    ("plans", "message"),
    [
        (
            without(np.repeat(PLAN, 3, axis=1), (0, 1, 7, 2)),
            "plan 1 of scene 0 is not finite, as 1 of the plans in all",
        ),
        (without(PLAN, (0, 0, 0, 0), np.inf), "plan 0 of scene 0 is not finite"),
        (PLAN[0], r"plans must be \[scenes, plans, 8, 3\] .*, not \[1, 8, 3\]"),
        (PLAN[:, :, :7], r"not \[1, 1, 7, 3\]"),
        (PLAN[..., :2], r"not \[1, 1, 8, 2\]"),
        (np.repeat(PLAN, 2, axis=0), "plans are for 2 scenes, but there are 1 surroundings"),
    ],
)
def test_bad_plans_are_refused_in_one_sentence(plans, message):
    with pytest.raises(ValueError, match=message):
        score_plans([FREE], plans)


@pytest.mark.parametrize(
    ("plans", "message"), [(PLAN, r"not \[1, 1, 8, 3\]"), (PLAN[0] * np.nan, "not finite: it cannot be driven")]
)
def test_bad_plans_are_not_driven(plans, message):
    with pytest.raises(ValueError, match=message):
        driven(FREE.ego, plans)


@pytest.mark.parametrize(
    ("surroundings", "message"),
    [
        (replace(FREE, reference=FREE.reference[:40]), r"reference .* shape \[41, 3\], not \[40, 3\]"),
        (replace(FREE, reference=FREE.reference * np.nan), "reference .* not finite"),
        (replace(FREE, ego=replace(FREE.ego, pose=np.full(3, np.nan))), "ego.pose .* not finite"),
        (replace(FREE, ego=replace(FREE.ego, steering_angle=np.nan)), "ego.steering_angle .* not finite"),
        (replace(FREE, ego=replace(FREE.ego, velocity=np.zeros(3))), r"ego.velocity .* shape \[2\], not \[3\]"),
        (
            replace(FREE, tracks=replace(TRACKS, poses=TRACKS.poses[:, :41])),
            r"tracks.poses .* \[1, 51, 3\], not \[1, 41, 3\]",
        ),
        (replace(FREE, tracks=replace(TRACKS, sizes=np.zeros((2, 2)))), r"tracks.sizes .* \[1, 2\], not \[2, 2\]"),
        (replace(FREE, tracks=replace(TRACKS, velocities=TRACKS.velocities * np.nan)), "tracks.velocities .* where"),
        (replace(FREE, tracks=replace(TRACKS, kinds=("tram",))), "tracks.kinds .* found 'tram'"),
        (replace(FREE, roads=replace(FREE.roads, kinds=("road", "lane", "lane"))), "roads.kinds .* found 'road'"),
        (replace(FREE, roads=replace(FREE.roads, on_route=np.ones(1, bool))), r"roads.on_route .* \[3\], not \[1\]"),
        (
            replace(FREE, roads=replace(FREE.roads, centreline=np.zeros((1, 2)))),
            r"roads.centreline .* \[2, 2\], not \[1, 2\]",
        ),
    ],
)
def test_bad_surroundings_are_refused_in_one_sentence(surroundings, message):
    with pytest.raises(ValueError, match=message):
        score_plans([surroundings], PLAN)


def test_where_nothing_is_drivable_every_plan_is_off_the_road():
    roads = Roads((), EMPTY, np.empty(0, bool), FREE.roads.centreline)

    scores = score_plans([replace(FREE, roads=roads)], PLAN)

    assert scores.drivable_area[0, 0] == scores.pdms[0, 0] == 0
    assert scores.no_collision[0, 0] == scores.time_to_collision[0, 0] == 1


def test_nobody_is_hit_where_nobody_is():
    assert FREE.tracks is NOBODY
    assert score_plans([FREE], PLAN).pdms[0, 0] == 1


def test_a_track_that_is_never_there_changes_nothing():
    never = replace(TRACKS, poses=TRACKS.poses * np.nan, velocities=TRACKS.velocities * np.nan)

    assert score_plans([replace(FREE, tracks=never)], PLAN).pdms[0, 0] == 1


@pytest.mark.parametrize("shape", [(0, 5), (1, 0)])
def test_no_plans_have_no_scores(shape):
    assert score_plans([FREE] * shape[0], np.zeros((*shape, 8, 3))).pdms.shape == shape


def test_plans_may_be_single_precision():
    assert score_plans([FREE], PLAN.astype(np.float32)).pdms.dtype == np.float64


def test_a_longer_reference_counts_as_far_as_the_plan_goes():
    longer = replace(FREE, reference=np.pad(FREE.reference, ((0, 10), (0, 0))))

    assert score_plans([longer], PLAN).progress[0, 0] == 1
