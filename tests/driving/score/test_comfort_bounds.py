"""Each of comfort's bounds, on motions whose derivatives are known.

The filters leave straight lines and parabolas as they are, but for the one over 8 moments before a jerk: an even window
shifts what is inside by half a step, though not the ends.
"""

import numpy as np
import pytest

from dipole_sb3.driving.score import comfort

TIMES = np.arange(41)[:, None] * 0.1
STILL = np.zeros((41, 1))
QUANTITIES = {
    "longitudinal acceleration": ("along", np.ones_like(TIMES), -4.05, 2.40),
    "lateral acceleration": ("across", np.ones_like(TIMES), -4.89, 4.89),
    "jerk": ("size", TIMES, -8.37, 8.37),
    "longitudinal jerk": ("along", TIMES - 2, -4.13, 4.13),
    "yaw rate": ("yaw", TIMES, -0.95, 0.95),
    "yaw acceleration": ("yaw", (TIMES - 2) ** 2 / 2, -1.93, 1.93),
}


@pytest.mark.parametrize("windows", [(41, 41), (8, 15)])
@pytest.mark.parametrize("name", QUANTITIES)
def test_a_quantity_is_comfortable_inside_its_bounds_alone(name, windows, monkeypatch):
    signal, shape, low, high = QUANTITIES[name]
    if name.endswith(("longitudinal jerk", "yaw acceleration")):
        # What changes so fast is soon beyond the bounds of what it is the change of.
        monkeypatch.setattr(comfort, "LONGITUDINAL", (-np.inf, np.inf))
        monkeypatch.setattr(comfort, "YAW_RATE", np.inf)
    slack = {41: 0.05, 15: 0.3}[windows[1]] if "jerk" in name else 0.001
    for bound in (low, high):
        for factor, expected in ((1 - slack, 1), (1 + slack, 0)):
            signals = {"along": STILL, "across": STILL, "size": STILL, "yaw": STILL, signal: bound * factor * shape}
            assert comfort.within_bounds(**signals, smoothing=windows[0], jerk_window=windows[1])[0] == expected


def test_yaw_may_pass_from_pi_to_minus_pi():
    yaw = np.pi - 0.2 + 0.1 * TIMES
    wrapped = np.arctan2(np.sin(yaw), np.cos(yaw))

    assert comfort.within_bounds(STILL, STILL, STILL, wrapped, 41, 41)[0] == 1
