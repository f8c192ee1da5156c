"""Every test of this folder that asks for ``algorithm`` runs once for each of them."""

from __future__ import annotations

from typing import Any

import pytest
from algorithms import ALGORITHMS, small
from recordings import Arrays

from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm


@pytest.fixture(params=ALGORITHMS, ids=[algorithm.__name__ for algorithm in ALGORITHMS])
def algorithm(request: pytest.FixtureRequest) -> type[OfflineAlgorithm]:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def model(algorithm: type[OfflineAlgorithm], reacher_data: Arrays) -> Any:
    """An untrained small model on Reacher's data, without an environment."""
    return small(algorithm, dataset=reacher_data)
