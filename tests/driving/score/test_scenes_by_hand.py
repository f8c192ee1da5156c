"""Scenes whose scores follow by hand. Columns: no collision, drivable area, progress, time to collision, comfort.

The road and the car are those of ``straight_roads``: the car's box reaches from −1.127 to 4.049 m around its rear axle,
1.1485 m to both sides. In 4 s at 10 m/s it gets 40 m far, its front to 44.05 m.
"""

import numpy as np
import pytest
import shapely
from straight_roads import END, START, rectangle, scene, straight, track, two_lanes

from dipole_sb3.driving.scene import Roads
from dipole_sb3.driving.score import score_plans

STAND = np.zeros((8, 3))
BACK = straight(1) * [-3, 1, 1]


def turn(speed, curvature):
    """A plan along a circle."""
    angle = curvature * speed * np.arange(1, 9) * 0.5
    return np.stack([np.sin(angle) / curvature, (1 - np.cos(angle)) / curvature, angle], axis=-1)


def square(size=150.0):
    """One lane as wide as long, on which everything fits."""
    roads = two_lanes()
    holder = np.empty(2, object)
    holder[:] = [shapely.box(-size, -size, size, size)] * 2
    return Roads(("roadblock", "lane"), holder, np.array([False, True]), roads.centreline)


def crossing(inside):
    """The road, and an intersection on the first 100 m, or far away."""
    left = START if inside else 150.0
    return two_lanes(("intersection", rectangle(-1.75, 5.25, left, END)))


# Beside the car, its front at the car's doors: neither ahead nor behind, and away from the front bumper.
BESIDE = {"x": 0.0, "speed": 10.0}

SCENES = {
    # nobody there
    "a free road": (scene(), straight(10), (1, 1, 1, 1, 1)),
    "standing on a free road": (scene(speed=0), STAND, (1, 1, 1, 1, 1)),
    "standing where the reference drives on": (scene(speed=0, follows=straight(0, 2)), STAND, (1, 1, 0, 1, 1)),
    "the reference gets 4 m, at most 5: progress counts for nothing": (
        scene(speed=1, follows=straight(1)),
        straight(1, -0.5),
        (1, 1, 1, 1, 1),
    ),
    "the same off the road: no progress": (scene(speed=1, y=-2), straight(1, -0.5), (1, 0, 0, 1, 1)),
    "faster than the reference: progress is at most 1": (
        scene(follows=straight(10, -1)),
        straight(10),
        (1, 1, 1, 1, 1),
    ),
    "the road's edge 1 mm beside the car": (scene(y=-0.6005), straight(10), (1, 1, 1, 1, 1)),
    "the right side 1 m off the road": (scene(y=-1.6015), straight(10), (1, 0, 0, 1, 1)),
    "the right side exactly on the road's edge is outside": (
        scene(
            roads=Roads(("roadblock",), np.array([rectangle(-1.1485, 5)]), np.zeros(1, bool), two_lanes().centreline)
        ),
        straight(10),
        (1, 0, 0, 1, 1),
    ),
    "off the road for the reference too": (scene(y=-1.6015), straight(10), (1, 0, 0, 1, 1)),
    "leaving the road at the end of the plan": (scene(), straight(10, across=-2, until=4), (1, 0, 0, 1, 1)),
    # 60 m, and 0.5 m/s · 4 s + 1.5 m that the tracker's and the brakes' lags add.
    "braking at 5 m/s² from 25 m/s: 63.5 of 100 m, uncomfortable": (
        scene(speed=25),
        straight(25, -5),
        (1, 1, 0.635, 1, 0),
    ),
    "goes on braking at 4.2 m/s²": (scene(speed=25, acceleration=-4.2), straight(25, -4.2), (1, 1, 0.69, 1, 0)),
    "goes on braking at 3.8 m/s²": (scene(speed=25, acceleration=-3.8), straight(25, -3.8), (1, 1, 0.72, 1, 1)),
    "braking at 2 m/s² from 20 m/s: 64 of 80 m": (scene(speed=20), straight(20, -2), (1, 1, 0.8, 1, 1)),
    "a circle at 1.2 rad/s": (scene(speed=8, roads=square()), turn(8, 0.15), (1, 1, 0, 1, 0)),
    "a circle at 0.4 rad/s": (
        scene(speed=8, roads=square(), follows=turn(8, 0.05)),
        turn(8, 0.05),
        (1, 1, 1, 1, 1),
    ),
    "reversing where the reference drives": (scene(speed=-3, follows=straight(5)), BACK, (1, 1, 0, 1, 1)),
    "reversing as the reference does": (scene(speed=-3, follows=BACK), BACK, (1, 1, 1, 1, 1)),
    # ahead and behind
    "a hit from behind": (scene(track(x=-15, speed=13), speed=3), straight(3), (1, 1, 1, 1, 1)),
    "a hit from behind, on the line between two lanes": (
        scene(track(x=-15, y=1.75, speed=13), speed=3, y=1.75),
        straight(3),
        (1, 1, 1, 1, 1),
    ),
    # Where the other is in 0.9 s is compared with where the car is now: 0.9 s · 5 m/s − 1.127 m − 2.25 m ahead of it.
    "a hit from behind at 5 m/s: the other's middle will be ahead of where the car is now": (
        scene(track(x=-15, speed=15), speed=5),
        straight(5),
        (1, 1, 1, 0, 1),
    ),
    "into a slower car": (scene(track(x=20, speed=2)), straight(10), (0, 1, 0, 0, 1)),
    "into an oncoming car": (scene(track(x=60, yaw=np.pi, speed=-10)), straight(10), (0, 1, 0, 0, 1)),
    "following at the same speed, 1 m apart": (scene(track(x=7.3, speed=10)), straight(10), (1, 1, 1, 1, 1)),
    "a standing car 1 m ahead of a standing one": (scene(track(x=7.3), speed=0), STAND, (1, 1, 1, 1, 1)),
    "stands 8 m ahead in the end: 0.9 s at 10 m/s are 9 m": (
        scene(track(x=44.05 + 8 + 2.25)),
        straight(10),
        (1, 1, 1, 0, 1),
    ),
    "stands 9.5 m ahead in the end": (scene(track(x=44.05 + 9.5 + 2.25)), straight(10), (1, 1, 1, 1, 1)),
    "would catch up from behind, within the second after the plan": (
        scene(track(x=-1.127 - 2.25 - 13, speed=6), speed=3),
        straight(3),
        (1, 1, 1, 1, 1),
    ),
    "the same from ahead, by its own reversing": (
        scene(track(x=4.049 + 2.25 + 13, speed=0), speed=3),
        straight(3),
        (1, 1, 1, 0, 1),
    ),
    "hit while standing": (scene(track(x=20, yaw=np.pi, speed=-10), speed=0), STAND, (1, 1, 1, 1, 1)),
    "reversing into a standing car: a standing one is always the other's victim": (
        scene(track(x=-10), speed=-3, follows=straight(5)),
        BACK,
        (0, 1, 0, 1, 1),
    ),
    "creeping at 0.04 m/s counts as standing, but not for time to collision": (
        scene(track(x=20, yaw=np.pi, speed=-10), speed=0.04),
        straight(0.04),
        (1, 1, 1, 0, 1),
    ),
    "creeping at 0.004 m/s counts as standing for both": (
        scene(track(x=20, yaw=np.pi, speed=-10), speed=0.004),
        straight(0.004),
        (1, 1, 1, 1, 1),
    ),
    "reversing into a car that creeps at 0.04 m/s: as if it stood": (
        scene(track(x=-10, speed=0.04), speed=-3, follows=straight(5)),
        BACK,
        (0, 1, 0, 1, 1),
    ),
    "reversing into a car that follows at 0.06 m/s: it is behind": (
        scene(track(x=-10, speed=0.06), speed=-3, follows=straight(5)),
        BACK,
        (1, 1, 0, 1, 1),
    ),
    # who is hit
    "a pedestrian who stands": (scene(track("pedestrian", x=30, size=(0.5, 0.5))), straight(10), (0, 1, 0, 0, 1)),
    "a bicycle": (scene(track("bicycle", x=15, speed=3, size=(1.8, 0.6))), straight(10), (0, 1, 0, 0, 1)),
    "a cone: half; the reference hits it too": (
        scene(track("static", x=30, size=(0.5, 0.5))),
        straight(10),
        (0.5, 1, 1, 0, 1),
    ),
    "a cone that the reference passes: half its progress": (
        scene(track("static", x=30, y=1.7, size=(0.5, 0.5))),
        straight(10, across=0.9),
        (0.5, 1, 0.5, 0, 1),
    ),
    "a cone and a car": (
        scene(track("static", x=20, size=(0.5, 0.5)), track(x=30)),
        straight(10),
        (0, 1, 0, 0, 1),
    ),
    # sideways
    "pushed from the side, in one lane": (
        scene(track(x=0, y=3.5, across=-1, speed=2), speed=2),
        straight(2),
        (1, 1, 1, 1, 1),
    ),
    "the same at 10 m/s: in 0.9 s the other will be 9 m ahead of where the car is now": (
        scene(track(y=3.5, across=-1, **BESIDE)),
        straight(10),
        (1, 1, 1, 0, 1),
    ),
    # The car's left side, at y = 1.1485, is in the connector too.
    "pushed from the side, wholly in a lane that a connector overlaps": (
        scene(track(x=0, y=3.5, across=-1, speed=2), speed=2, roads=two_lanes(("connector", rectangle(1.0, 5.25)))),
        straight(2),
        (1, 1, 1, 1, 1),
    ),
    "pushed from the side, on the line between two lanes": (
        scene(track(y=4.6, across=-1, **BESIDE), y=1.75),
        straight(10),
        (0, 1, 0, 0, 1),
    ),
    "pushed from the side, off the road": (
        scene(track(y=1.5, across=-1, **BESIDE), y=-1.6015),
        straight(10),
        (0, 0, 0, 0, 1),
    ),
    "changing into a lane where somebody drives": (
        scene(track(y=3.5, **BESIDE)),
        straight(10, across=3.5, until=4),
        (0, 1, 0, 0, 1),
    ),
    "changing into a free lane": (scene(), straight(10, across=3.5, until=4), (1, 1, 0.998, 1, 1)),
    # It comes up to 1.15 + 0.5 m beside the car's middle line, 1 m ahead of its rear axle: 59° from ahead.
    "grazed from the side in a lane": (
        scene(track(x=1, y=2.4, across=-0.2, size=(1, 1), speed=0.5), speed=0.5, roads=crossing(False)),
        straight(0.5),
        (1, 1, 1, 1, 1),
    ),
    "grazed from the side in an intersection": (
        scene(track(x=1, y=2.4, across=-0.2, size=(1, 1), speed=0.5), speed=0.5, roads=crossing(True)),
        straight(0.5),
        (1, 1, 1, 0, 1),
    ),
    # when somebody is there, and how often judged
    "somebody who is gone before the car comes": (scene(track(x=30, last=20)), straight(10), (1, 1, 1, 1, 1)),
    "somebody who comes up out of nothing on the car": (
        scene(track(x=22, first=20)),
        straight(10),
        (0, 1, 0, 0, 1),
    ),
    "a standing car that overlaps from the beginning": (scene(track(x=4)), straight(10), (0, 1, 0, 0, 1)),
    "drives through from behind: judged once, when it is behind": (
        scene(track(x=-24, speed=15), speed=1),
        straight(1),
        (1, 1, 1, 1, 1),
    ),
    "stood in the beginning, then runs into the car from behind: stands for ever": (
        scene(track(x=-8, speed=15, starts_at=0.5), speed=1),
        straight(1),
        (0, 1, 0, 1, 1),
    ),
}


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_scores_what_follows_by_hand(name):
    surroundings, plan, expected = SCENES[name]

    scores = score_plans([surroundings], plan[None, None])

    found = [getattr(scores, part)[0, 0] for part in ("no_collision", "drivable_area", "progress")]
    found += [scores.time_to_collision[0, 0], scores.comfort[0, 0]]
    assert found == pytest.approx(expected, abs=0.03)
    assert [found[index] for index in (0, 1, 3, 4)] == [expected[index] for index in (0, 1, 3, 4)]
    no_collision, drivable_area, progress, time_to_collision, comfort = found
    assert scores.pdms[0, 0] == pytest.approx(
        no_collision * drivable_area * (5 * progress + 5 * time_to_collision + 2 * comfort) / 12, abs=1e-12
    )
