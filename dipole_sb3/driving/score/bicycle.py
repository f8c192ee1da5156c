"""The car as the score drives it: a kinematic bicycle around the middle of the rear axle, with lagging actuators.

One array per quantity, [n] for n cars: NumPy's vectorised functions give the same bits for one car and for many only
where memory is contiguous.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dipole_sb3.driving.scene import Floats

# nuPlan's `get_pacifica_parameters`.
WHEELBASE = 3.089
LENGTH = 4.049 + 1.127
WIDTH = 2 * 1.1485
REAR_AXLE_TO_CENTRE = LENGTH / 2 - 1.127

# NAVSIM's `BatchKinematicBicycleModel`.
STEP = 0.1
STEERING_LIMIT = np.pi / 3
ACCELERATION_LAG = 0.2
STEERING_LAG = 0.05


class Motion(NamedTuple):
    """How n cars move; each field float64 [n].

    :ivar x: m, in the map frame, as ``y``.
    :ivar yaw: rad, from −π to π.
    :ivar speed: m/s along the car; negative in reverse.
    :ivar acceleration: m/s² along the car.
    :ivar steering: rad, the front wheels' angle.
    """

    x: Floats
    y: Floats
    yaw: Floats
    speed: Floats
    acceleration: Floats
    steering: Floats


def wrapped(angle: Floats) -> Floats:
    """The same angle from −π up to π, without π itself."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def step(motion: Motion, acceleration: Floats, steering_rate: Floats) -> Motion:
    """The cars 0.1 s later, by one Euler step.

    :param acceleration: [n], m/s², commanded; the car's follows with a lag of 0.2 s.
    :param steering_rate: [n], rad/s, commanded; the steering angle follows with a lag of 0.05 s.
    """
    acceleration = motion.acceleration + STEP / (STEP + ACCELERATION_LAG) * (acceleration - motion.acceleration)
    steering = motion.steering + STEP / (STEP + STEERING_LAG) * STEP * steering_rate
    return Motion(
        x=motion.x + motion.speed * np.cos(motion.yaw) * STEP,
        y=motion.y + motion.speed * np.sin(motion.yaw) * STEP,
        yaw=wrapped(motion.yaw + motion.speed * np.tan(motion.steering) / WHEELBASE * STEP),
        speed=motion.speed + acceleration * STEP,
        acceleration=acceleration,
        steering=np.clip(steering, -STEERING_LIMIT, STEERING_LIMIT),
    )
