"""Control periods, ω and takeovers where one of the bundles has no ω; without ROS."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from bench import Bench, expected, wait_until
from dipole_policy.errors import ContractError
from dipole_policy.holder import Fitting, PolicyOptions
from dipole_policy.omega import NO_OMEGA, OmegaControl, OmegaRecord
from dipole_runtime.manifest import OmegaRange
from robots import contract, describe

RANGE = OmegaRange(0.5, -1.0, 4.0)


@pytest.fixture
def bench(deterministic_bundle: Path) -> Bench:
    return Bench(deterministic_bundle)


def test_it_drives(bench: Bench):
    bench.period()
    assert bench.faults == []
    assert bench.sent == [expected(bench)]
    assert bench.decisions[0].action.omega is None
    assert bench.audit == []


def test_a_turn_is_refused_and_changes_nothing(bench: Bench):
    bench.period()
    for value in (0.5, math.nan, "much"):
        assert NO_OMEGA in (bench.loop.omega.request(value, "topic") or "")
    assert bench.loop.shadow_problem([]) is None
    assert NO_OMEGA in (bench.loop.shadow_problem([0.5]) or "")
    bench.period()
    assert bench.sent == [expected(bench)] * 2
    assert [record.accepted for record in bench.audit] == [False] * 3
    assert all(math.isnan(record.old) for record in bench.audit)


def test_candidates_are_refused(deterministic_bundle: Path):
    for count in (0, 1):
        loaded = Fitting(contract(), describe, PolicyOptions(num_candidates=count)).load(str(deterministic_bundle))
        assert loaded.noise is None
    with pytest.raises(ContractError, match=r"num_candidates is 8, expected 0 or 1: bundle .* deterministic"):
        Fitting(contract(), describe, PolicyOptions(num_candidates=8)).load(str(deterministic_bundle))


def test_taking_over_from_a_pair_and_back(bundle: Path, deterministic_bundle: Path):
    """In the middle of an inference: each ends with the bundle that it began with."""
    bench = Bench(bundle)
    bench.loop.omega.request(3.0, "parameter")
    pair = bench.loop.holder.current
    other = bench.fitting.replace(pair, str(deterministic_bundle))
    wanted = [expected(bench, 3.0)]
    bench.replace_policy(lambda: bench.loop.swap(other))
    bench.period()
    wanted.append(expected(bench))
    bench.replace_policy(lambda: bench.loop.swap(pair))
    bench.period()
    wanted.append(expected(bench))
    bench.period()
    assert bench.faults == []
    assert bench.sent == wanted
    assert [decision.action.omega for decision in bench.decisions] == [3.0, None, 0.5]
    told = [(record.source, record.accepted, str(record.old), str(record.new)) for record in bench.audit]
    assert told == [
        ("parameter", True, "0.5", "3.0"),
        ("reload", True, "3.0", "nan"),
        ("reload", True, "nan", "0.5"),
    ]


def test_a_shadow_does_not_end_silently(bundle: Path, deterministic_bundle: Path):
    bench = Bench(bundle)
    bench.loop.shadow_omegas = (2.0,)
    other = bench.fitting.replace(bench.loop.holder.current, str(deterministic_bundle))
    with pytest.raises(ContractError, match=r"shadow_omegas: omega is 2\.0, expected none"):
        bench.loop.swap(other)
    assert bench.loop.omega.target == 0.5
    assert bench.audit == []
    bench.loop.shadow_omegas = ()
    bench.loop.swap(other)
    bench.period()
    assert bench.sent == [expected(bench)]


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.4), (-1.0, 0.3), (-0.7, 1.2)])
def test_a_slew_ends_at_its_target_and_not_a_rounding_beyond(low: float, high: float):
    control = OmegaControl(OmegaRange(low, low, high), 100.0, lambda: 0, lambda record: None)
    assert control.begin(low, "configure") is None
    assert control.request(high, "parameter") is None
    assert control.step(1.0) == high
    assert control.request(low, "parameter") is None
    assert control.step(1.0) == low


def test_a_slew_does_not_go_on_from_before(bundle: Path, deterministic_bundle: Path):
    bench = Bench(bundle)
    bench.loop.omega.slew_per_s = 1.0
    bench.loop.omega.request(3.0, "parameter")
    pair = bench.loop.holder.current
    bench.period()
    assert bench.decisions[-1].action.omega == pytest.approx(0.55)
    bench.loop.swap(bench.fitting.replace(pair, str(deterministic_bundle)))
    bench.period()
    bench.loop.swap(pair)
    bench.period()
    assert [decision.action.omega for decision in bench.decisions[1:]] == [None, 0.5]


@pytest.mark.parametrize("first", ["pair", "deterministic"])
def test_no_period_sees_a_bundle_with_the_other_ones_omega(first: str, make_bundle: Callable[..., Path]):
    bench = Bench(make_bundle(form=first))
    second = "deterministic" if first == "pair" else "pair"
    other = bench.fitting.replace(bench.loop.holder.current, str(make_bundle(form=second)))
    step = bench.loop.omega.step

    def disturbed(elapsed: float) -> float:
        bench.loop.omega.step = step  # type: ignore[method-assign]
        thread = threading.Thread(target=bench.loop.swap, args=(other,), daemon=True)
        thread.start()
        thread.join(0.3)
        return step(elapsed)

    bench.loop.omega.step = disturbed  # type: ignore[method-assign]
    bench.period()
    wait_until(lambda: bench.loop.holder.current is other)
    bench.period()
    assert [str(cause) for cause, _ in bench.faults] == []
    omegas = [decision.action.omega for decision in bench.decisions]
    assert omegas == ([0.5, None] if first == "pair" else [None, 0.5])


def test_the_control_alone():
    records: list[OmegaRecord] = []
    control = OmegaControl(None, 0.0, lambda: 0, records.append)
    assert (control.target, control.range, control.step(1.0)) == (None, None, None)
    assert control.range_problem(RANGE) is None
    control.change_range(None)
    assert records == []
    control.change_range(RANGE)
    assert (control.target, control.step(1.0)) == (0.5, 0.5)
    assert control.range_problem(OmegaRange(1.0, 1.0, 2.0)) is not None
    assert control.range_problem(None) is None
    assert [record.source for record in records] == ["reload"]
