"""Actions that were recorded in the environment's units come back from a buffer to what scales to the same bits."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st

from dipole_sb3.buffers.action_units import in_environment_units, scaled_actions


@settings(max_examples=100, deadline=None)
@given(
    st.floats(-1e3, 1e3, width=32),
    st.floats(np.float32(1e-3).item(), 1e3, width=32),
    st.integers(0, 2**32 - 1),
)
def test_scaled_again_they_are_the_same_bits(low: float, span: float, seed: int) -> None:
    space = spaces.Box(np.array([low, -1], np.float32), np.array([low + span, 1], np.float32))
    recorded = np.random.default_rng(seed).uniform(space.low, space.high, (200, 2)).astype(np.float32)
    recorded = np.concatenate([recorded, [space.low, space.high, np.clip([0, 0], space.low, space.high)]]).astype(
        np.float32
    )
    scaled = scaled_actions(recorded, space)
    units = in_environment_units(scaled, space)
    np.testing.assert_array_equal(scaled_actions(units, space), scaled)
    np.testing.assert_allclose(units, recorded, atol=1e-4 * max(span, 2))
    assert units.dtype == np.float32


def test_what_no_number_of_those_units_is_scaled_to_comes_back_to_rounding() -> None:
    space = spaces.Box(np.float32([1000]), np.float32([1001]))
    scaled = np.linspace(-0.99, 0.99, 1001, dtype=np.float32)[:, None]
    units = in_environment_units(scaled, space)
    np.testing.assert_allclose(units, 1000.5 + scaled / 2, atol=1e-4)
    assert (scaled_actions(units, space) != scaled).any()
