"""Random traffic on straight_roads' road, and random plans through it."""

from __future__ import annotations

import numpy as np
import shapely
from straight_roads import scene, straight, track, two_lanes

from dipole_sb3.driving.scene import TRACK_KINDS

SIZES = {"vehicle": (4.5, 1.8), "pedestrian": (0.7, 0.6), "bicycle": (1.8, 0.6), "static": (0.5, 0.5)}


def random_scene(generator, others=6):
    """The car in the right lane, others anywhere near; an intersection and a car park now and then."""

    def someone():
        kind = str(generator.choice(TRACK_KINDS, p=[0.6, 0.15, 0.1, 0.15]))
        yaw = generator.choice([0.0, generator.normal(0, 0.3), np.pi])
        speed = 0.0 if kind == "static" else generator.choice([0.0, generator.uniform(0, 12)])
        first, last = sorted(generator.integers(0, 51, 2)) if generator.random() < 0.3 else (0, 50)
        return track(
            kind,
            x=generator.uniform(-15, 45),
            y=generator.choice([0.0, 3.5, generator.uniform(-3, 6)]),
            yaw=yaw,
            speed=speed * np.cos(yaw),
            across=speed * np.sin(yaw),
            size=SIZES[kind],
            first=first,
            last=last,
        )

    more = []
    if generator.random() < 0.3:
        more.append(("intersection", shapely.box(10, -4, 30, 8)))
    if generator.random() < 0.3:
        more.append(("carpark", shapely.box(0, -6, 60, -1.5)))
    speed = generator.choice([0.0, generator.uniform(0, 14)])
    return scene(
        *(someone() for _ in range(others)),
        speed=speed,
        y=generator.choice([0.0, generator.normal(0, 0.4), 1.75]),
        roads=two_lanes(*more),
        follows=straight(speed, generator.uniform(-1, 1)),
        steering=generator.normal(0, 0.02),
    )


def random_plans(generator, speed, count):
    """Plans [count, 8, 3] near a speed: straight on, into the other lane, in a curve, backwards, noise."""
    plans = []
    for _ in range(count):
        plan = straight(max(0.0, speed + generator.normal(0, 2)), generator.normal(0, 1.5))
        plan = plan if generator.random() < 0.5 else straight(speed + 0.1, 0.0, generator.choice([-3.5, 1.0, 3.5]), 3)
        if generator.random() < 0.3:
            plan = plan + generator.normal(0, [0.3, 0.2, 0.05], plan.shape)
        if generator.random() < 0.1:
            plan = -plan
        plans.append(plan)
    return np.array(plans)
