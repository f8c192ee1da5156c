"""Deadlines that may be missed, and how many of them stop the robot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench import PERIOD, Bench
from dipole_policy.deadlines import Deadlines
from dipole_policy.errors import ContractError
from dipole_policy.supervisor import State
from dipole_policy.tolerance import Tolerance
from hypothesis import given
from hypothesis import strategies as st
from robots import CONTRACT, LIMITED, contract, replaced


@pytest.mark.parametrize(
    ("rate", "deadline", "expected"),
    [
        (200, None, "10 of 200"),
        (50, None, "2 of 50"),
        (20, None, "1 of 20"),
        (10, None, "0 of 10"),
        (20, 0.5, "0 of 20"),
    ],
)
def test_what_is_tolerated_by_default(rate: float, deadline: float | None, expected: str):
    text = CONTRACT.replace("rate_hz: 20", f"rate_hz: {rate}")
    text = text.replace("deadline_s: 0.5\n", "" if deadline is None else f"deadline_s: {deadline}\n")
    assert str(contract(text).deadline_misses) == expected


@pytest.mark.parametrize("text", ["3", "3 of 3", "-1 of 5", "a of b", "[3, 100]"])
def test_a_tolerance_that_is_none(text: str):
    with pytest.raises(ContractError, match="deadline_misses is "):
        contract(replaced("deadline_s: 0.5", f"deadline_misses: {text}"))


def tolerant(bundle: Path) -> Bench:
    bench = Bench(bundle, replaced("deadline_s: 0.5", "deadline_s: 0.05\ndeadline_misses: 2 of 20"))
    bench.period()
    return bench


def late(bench: Bench, by: float = 0.06) -> None:
    def dawdle() -> None:
        bench.now += by

    drives = bench.loop.holder.current
    bench.replace_policy(dawdle)
    bench.period()
    bench.loop.holder.current = drives


def test_a_late_period_drops_its_decision_and_the_robot_drives_on(bundle: Path):
    bench = tolerant(bundle)
    for _ in range(2):
        late(bench)
    assert len(bench.sent) == 1, "neither the late decisions nor a stop"
    assert bench.faults == []
    bench.period()
    assert len(bench.decisions) == 2
    assert bench.decisions[-1].number == 2
    assert bench.loop.deadlines.total == 2


def test_too_many_late_periods_stop(bundle: Path):
    bench = tolerant(bundle)
    for _ in range(3):
        late(bench)
    assert bench.sent[-1] == [0.0, 0.0]
    assert "expected at most 0.05 s (3 misses in 20 periods, 2 are tolerated)" in str(bench.faults[-1][0])


def test_a_period_that_hangs_counts_as_all_that_it_misses(bundle: Path):
    bench = tolerant(bundle)
    late(bench, by=0.16)
    assert bench.sent[-1] == [0.0, 0.0]


@pytest.mark.parametrize("tolerance", ["3 of 100", "1 of 10"])
def test_a_hanging_policy_is_stopped_whatever_the_tolerance(bundle: Path, tolerance: str):
    """A deadline longer than the period: its misses leave a short window as fast as they come."""
    bench = Bench(bundle, replaced("deadline_s: 0.5", f"deadline_s: 1.0\ndeadline_misses: {tolerance}"))
    bench.period()
    with bench.hanging():
        for _ in range(200):
            bench.now += 0.05
            bench.loop.watch(0.5)
        assert bench.sent[-1] == [0.0, 0.0]


def test_a_policy_that_is_always_late_is_stopped(bundle: Path):
    bench = Bench(bundle, replaced("deadline_s: 0.5", "deadline_s: 1.0\ndeadline_misses: 3 of 100"))
    bench.period()
    for _ in range(8):
        late(bench, by=1.2)
    assert bench.sent[-1] == [0.0, 0.0]
    assert bench.loop.supervisor.state is State.STOPPED


def test_late_periods_during_a_stop_send_it_again(bundle: Path):
    bench = Bench(bundle, replaced("deadline_s: 0.5", "deadline_s: 0.05\ndeadline_misses: 5 of 20"))
    bench.period()
    bench.loop.request_stop()
    bench.sent.clear()
    for _ in range(4):
        late(bench)
    assert bench.sent == [[0.0, 0.0]] * 4


def test_the_rate_counts_from_the_command_before_the_late_one(bundle: Path):
    text = LIMITED.replace("deadline_s: 0.5", "deadline_s: 0.05\ndeadline_misses: 2 of 20")
    bench = Bench(bundle, text)
    bench.period()
    late(bench)
    bench.period()
    np.testing.assert_array_less(np.abs(np.array(bench.sent[1]) - bench.sent[0]), 0.5 * PERIOD + 1e-9)


@given(
    st.integers(0, 5),
    st.integers(6, 30),
    st.lists(st.tuples(st.floats(0.0, 0.3), st.floats(0.0, 0.3)), min_size=1, max_size=60),
)
def test_never_more_misses_than_tolerated_in_any_window(allowed: int, of: int, periods: list[tuple[float, float]]):
    """Against counting anew in every window."""
    deadlines = Deadlines(0.05, Tolerance(allowed, of), 0.05)
    now, misses, kept = 0.0, [], None
    for pause, spent in periods:
        now += pause
        started = now
        now += spent
        if now - started > 0.05:
            misses += [now] * max(1, int((now - started) / 0.05))
        lately = [time for time in misses if now - time <= of * 0.05]
        kept = started if kept is None else kept
        found = deadlines.check(started, now)
        if now - started > 0.05:
            too_many, silent = len(lately) > allowed, now - kept > 2 * (allowed + 1) * 0.05
            assert (found is not None) == (too_many or silent)
        else:
            assert found is None
            deadlines.kept(now)
            kept = now
