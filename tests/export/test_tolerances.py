"""The tolerances that export writes: within the bounds that the runtime insists on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from dipole_export import export_bundle
from dipole_export.exporter import _accepted
from dipole_runtime.manifest import Parity
from dipole_runtime.tolerances import LARGEST_INT8_ERROR, LARGEST_INT8_Q_ERROR, LARGEST_TOLERANCES
from models import model_of


@pytest.mark.parametrize("limit", [0.0, -0.1, 0.2001, 1.0, float("nan"), float("inf"), True])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_more_than_means_anything_cannot_be_accepted(limit: float, precision: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"max_int8_error is .*, expected more than 0 and at most 0\.2"):
        export_bundle(model_of("vector"), tmp_path / "bundle", precision, max_int8_error=limit)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_what_is_written_at_the_largest_errors_is_what_the_runtime_accepts(precision: Any) -> None:
    most = LARGEST_TOLERANCES[precision]
    action, q = (LARGEST_INT8_ERROR, LARGEST_INT8_Q_ERROR) if precision == "int8" else (most.action, most.q)
    accepted = _accepted({4.0: Parity(action, 0, q, 0)}, precision, LARGEST_INT8_ERROR, "advice", "here")
    assert (accepted.action_tolerance, accepted.q_tolerance) == (most.action, most.q)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_larger_errors_are_not_written(precision: Any) -> None:
    most = LARGEST_TOLERANCES[precision]
    for errors, words in (
        (Parity(most.action * 1.01, 0, 0, 0), f"because the {precision} bundle's actions differ"),
        (Parity(0, 0, most.q * 1.01, 0), f"because the {precision} bundle's Q-values differ"),
        (Parity(float("nan"), 0, 0, 0), "actions differ"),
        (Parity(0, 0, float("nan"), 0), "Q-values differ"),
    ):
        with pytest.raises(ValueError, match=words):
            _accepted({None: errors}, precision, LARGEST_INT8_ERROR, "advice", "here")
