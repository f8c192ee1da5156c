"""NAVSIM v2's extended score on scenes that can be worked out by hand."""

from dataclasses import fields, replace

import numpy as np
import pytest
from random_driving import random_plans, random_scene
from straight_roads import END, rectangle, scene, straight, track, two_lanes

from dipole_sb3.driving.scene import RedLights
from dipole_sb3.driving.score import extended_scores

CALM = np.zeros((4, 3))
PARTS = ("driving_direction", "traffic_light", "progress", "time_to_collision", "lane_keeping", "history_comfort")
ALWAYS, NEVER = np.ones(41, bool), np.zeros(41, bool)
UNTIL_2_S = np.arange(41) < 20
STAND = np.zeros((8, 3))


def lights(*several):
    polygons = np.empty(len(several), object)
    polygons[:] = [polygon for polygon, _ in several]
    return RedLights(polygons, np.array([red for _, red in several], bool).reshape(-1, 41))


def extended(surroundings, red_lights=None, past=CALM):
    return replace(surroundings, past=past, red_lights=lights() if red_lights is None else red_lights)


def from_past(*accelerations):
    """The past of a car that drove straight on with these accelerations, at −1.5, −1.0, −0.5 and 0 s."""
    return np.stack([np.zeros(4), accelerations, np.zeros(4)], axis=-1)


FAR_AHEAD = rectangle(-1.75, 1.75, 30, 60)
INTERSECTION = ("intersection", rectangle(-1.75, 5.25, -60, END))

# Columns as in PARTS.
SCENES = {
    "a free road": (extended(scene()), straight(10), (1, 1, 1, 1, 1, 1)),
    # Half of the way to the other lane, whose side of the line is oncoming: the middle crosses it after 2 of 4 s.
    "into the oncoming lane: 10 m within a second": (
        extended(scene()),
        straight(10, across=3.5, until=4),
        (0, 1, 1, 1, 0, 1),
    ),
    "the same in an intersection": (
        extended(scene(roads=two_lanes(INTERSECTION))),
        straight(10, across=3.5, until=4),
        (1, 1, 1, 1, 1, 1),
    ),
    "in the oncoming lane at 3 m/s: half": (extended(scene(speed=3, y=3.5)), straight(3), (0.5, 1, 1, 1, 0, 1)),
    # 11 steps of 0.1 s are counted, not 10: 1.98 m and 2.09 m.
    "in the oncoming lane at 1.8 m/s: 1.98 m": (extended(scene(speed=1.8, y=3.5)), straight(1.8), (1, 1, 1, 1, 0, 1)),
    "in the oncoming lane at 1.9 m/s: 2.09 m": (extended(scene(speed=1.9, y=3.5)), straight(1.9), (0.5, 1, 1, 1, 0, 1)),
    "0.4 m beside the centreline": (extended(scene(y=0.4)), straight(10), (1, 1, 1, 1, 1, 1)),
    "0.6 m beside the centreline": (extended(scene(y=0.6)), straight(10), (1, 1, 1, 1, 0, 1)),
    "0.6 m beside it, back within a second": (
        extended(scene(y=0.6)),
        straight(10, across=-0.6, until=1),
        (1, 1, 1, 1, 1, 1),
    ),
    # Progress counts for nothing: the reference does the same, so that nobody gets 5 m.
    "over a red light": (extended(scene(), lights((FAR_AHEAD, ALWAYS))), straight(10), (1, 0, 1, 1, 1, 1)),
    "over a light that is green": (extended(scene(), lights((FAR_AHEAD, NEVER))), straight(10), (1, 1, 1, 1, 1, 1)),
    "over a light that was red before": (
        extended(scene(), lights((FAR_AHEAD, UNTIL_2_S))),
        straight(10),
        (1, 1, 1, 1, 1, 1),
    ),
    "standing on a red connector": (
        extended(scene(speed=0), lights((rectangle(-2, 2), ALWAYS))),
        STAND,
        (1, 0, 1, 1, 1, 1),
    ),
    "would hit within 0.9 s of 3.5 s: version 1 looks so far, this one to 3.1 s": (
        extended(scene(track(x=44.05 + 2.25 + 2))),
        straight(10),
        (1, 1, 1, 1, 1, 1),
    ),
    "would hit within 0.9 s of 3.1 s: 35.05 m and 9 m": (
        extended(scene(track(x=44.05 + 2.25 - 0.5, first=35, last=40))),
        straight(10),
        (1, 1, 1, 0, 1, 1),
    ),
    "braked hard just before": (extended(scene(), past=from_past(0, -9, -9, -9)), straight(10), (1, 1, 1, 1, 1, 0)),
    "braked hard a while before": (extended(scene(), past=from_past(-9, -9, 0, 0)), straight(10), (1, 1, 1, 1, 1, 0)),
    "braked gently": (extended(scene(), past=from_past(-1, -1, -0.5, 0)), straight(10), (1, 1, 1, 1, 1, 1)),
}


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_scores_what_follows_by_hand(name):
    surroundings, plan, expected = SCENES[name]

    scores = extended_scores([surroundings], plan[None, None])

    found = [float(getattr(scores, part)[0, 0]) for part in PARTS]
    assert found == pytest.approx(expected, abs=0.01)
    direction, light, progress, in_time, lane, history = found
    allowed = scores.no_collision[0, 0] * scores.drivable_area[0, 0] * direction * light
    assert scores.epdms[0, 0] == pytest.approx(
        allowed * (5 * progress + 5 * in_time + 2 * lane + 2 * history) / 14, abs=1e-12
    )


def test_each_plan_scores_as_if_it_were_alone_to_the_last_bit():
    generator = np.random.default_rng(0)
    surroundings = [extended(random_scene(generator), lights((FAR_AHEAD, UNTIL_2_S))) for _ in range(3)]
    plans = np.stack([random_plans(generator, one.ego.velocity[0], 5) for one in surroundings])

    together = extended_scores(surroundings, plans)

    for row, column in np.ndindex(3, 5):
        alone = extended_scores([surroundings[row]], plans[row, column][None, None])
        for field in fields(alone):
            assert getattr(alone, field.name)[0, 0] == getattr(together, field.name)[row, column]


@pytest.mark.parametrize(
    ("surroundings", "message"),
    [
        (scene(), "needs the surroundings' past and red_lights"),
        (extended(scene(), past=np.zeros((3, 3))), r"past .* shape \[4, 3\], not \[3, 3\]"),
        (extended(scene(), past=CALM * np.nan), "past of the surroundings must be finite"),
        (extended(scene(), RedLights(np.empty(0, object), NEVER[None])), r"\[0, 41\], not \[1, 41\]"),
    ],
)
def test_what_the_extended_score_needs_is_asked_for_in_one_sentence(surroundings, message):
    with pytest.raises(ValueError, match=message):
        extended_scores([surroundings], straight(10)[None, None])
