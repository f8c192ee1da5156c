"""beyond_data.py: its distances, by hand."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import beyond_data


def test_neighbours_are_the_most_similar_other_states_whatever_their_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beyond_data, "NEIGHBOURS", 2)
    # The second number has a thousand times the unit of the first: both count alike.
    observations = np.array([[0, 0], [1, 0], [0, 1000], [3, 3000], [0.5, 0], [3, 0]], np.float32)
    found = beyond_data.neighbours(observations, np.array([0, 3]))
    assert found[0].tolist() == [4, 1]
    assert 3 not in found[1]
    assert set(found[1]) == {2, 5} or set(found[1]) == {2, 1}


def test_nearest_is_the_distance_to_the_closest_candidate() -> None:
    candidates = np.array([[[0, 0], [3, 4]], [[1, 1], [0, 1]]], float)
    assert beyond_data.nearest(np.array([[3, 3], [0, 0]], float), candidates).tolist() == [1, 1]
