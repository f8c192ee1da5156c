"""Small measurements for small models."""

from __future__ import annotations

import pytest
from dipole_export import exporter


@pytest.fixture(autouse=True)
def few_observations(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest, operators_read_once: None
) -> None:
    """An export measures on 1,000 observations; most tests need only that it measures."""
    if "all_observations" not in request.keywords:
        monkeypatch.setattr(exporter, "PARITY_OBSERVATIONS", 60)
