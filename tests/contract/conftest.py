"""Every test of this folder that asks for ``algorithm`` runs for each of them.

A test with further parameters does not run for every combination: what an algorithm adds and what a parameter changes
are mostly in different code, which the whole product would run again and again. Every algorithm meets every test, and
every value meets at least two algorithms; with EVERY_COMBINATION=1 all meet all.
"""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out combinations; see above."""
    if os.environ.get("EVERY_COMBINATION"):
        return
    of_test: dict[str, list[tuple[pytest.Item, int, str]]] = defaultdict(list)
    for item in items:
        call = getattr(item, "callspec", None)
        of_this_folder = item.path.parent == Path(__file__).parent
        if of_this_folder and call is not None and "algorithm" in call.params and len(call.params) > 1:
            name = call.params["algorithm"].__name__
            values = "-".join(part for part in call.id.split("-") if part != name)
            test = item.nodeid.partition("[")[0]
            of_test[test].append((item, ALGORITHMS.index(call.params["algorithm"]), values))
    left_out = set()
    for cases in of_test.values():
        order = {values: place for place, values in enumerate(dict.fromkeys(values for _, _, values in cases))}
        # Of eight algorithms a value meets two, or four where there are too few values for all algorithms to have one.
        stride = 4 if len(order) >= 4 else 2
        left_out |= {item for item, algorithm, values in cases if (algorithm + order[values]) % stride}
    config.hook.pytest_deselected(items=list(left_out))
    items[:] = [item for item in items if item not in left_out]
