"""The state machine, the wire, the clock's guard and the greediness, each by itself."""

from __future__ import annotations

import threading
from collections import deque
from itertools import pairwise

import numpy as np
import pytest
from dipole_policy.clocks import ClockGuard
from dipole_policy.errors import Cause, Kind
from dipole_policy.omega import OmegaControl, OmegaRecord
from dipole_policy.statistics import Statistics, summary
from dipole_policy.supervisor import State, StopRequest, Supervisor
from dipole_policy.watchdog import Watchdog
from dipole_policy.wire import Outlet, Wire
from dipole_runtime.manifest import OmegaRange
from hypothesis import given, settings
from hypothesis import strategies as st

STALE = Cause(Kind.STALE, "old")
MISSING = Cause(Kind.MISSING, "nothing")
LATE = Cause(Kind.DEADLINE, "late")


def started(recover_after_s: float = 1.0, automatic: bool = True) -> Supervisor:
    supervisor = Supervisor(recover_after_s, automatic)
    supervisor.start()
    return supervisor


# ---- supervisor


def test_nothing_drives_before_the_start_and_after_the_end():
    supervisor = Supervisor(0.0, True)
    assert not supervisor.well(0.0)
    assert not supervisor.fault(STALE)
    supervisor.start()
    assert supervisor.well(1.0)
    supervisor.off()
    assert not supervisor.well(2.0)
    assert supervisor.state is State.OFF


def test_the_first_whole_inputs_start_the_drive():
    supervisor = started()
    assert supervisor.fault(MISSING)
    assert not supervisor.fault(MISSING), "the same again is no news"
    assert supervisor.state is State.WAITING
    assert supervisor.well(5.0)
    assert supervisor.state is State.DRIVING
    assert supervisor.cause is None


def test_a_fault_while_waiting_is_a_stop_unless_a_topic_is_silent():
    supervisor = started()
    supervisor.fault(LATE)
    assert supervisor.state is State.STOPPED
    assert not supervisor.well(0.0)


def test_driving_resumes_after_a_time_without_fault():
    supervisor = started(recover_after_s=1.0)
    supervisor.well(0.0)
    assert supervisor.fault(STALE)
    assert supervisor.cause is STALE
    assert not supervisor.well(10.0)
    assert supervisor.state is State.RECOVERING
    assert not supervisor.well(10.9)
    assert supervisor.fault(STALE), "a fault while recovering is news"
    assert not supervisor.well(11.5)
    assert not supervisor.well(12.4)
    assert supervisor.well(12.5)
    assert supervisor.cause is None


def test_by_command_only():
    supervisor = started(automatic=False)
    supervisor.well(0.0)
    assert supervisor.resume() == "the node is driving: there is nothing to resume"
    supervisor.fault(STALE)
    assert supervisor.resume() == "the cause is not over: stale input: old"
    assert not supervisor.well(1.0)
    assert not supervisor.well(1000.0)
    assert supervisor.state is State.STOPPED
    assert supervisor.resume() is None
    assert supervisor.well(1000.1)
    supervisor.off()
    assert supervisor.resume() == "the node is not active"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.floats(0.01, 2.0), st.booleans())))
def test_whatever_happens_nothing_drives_sooner_than_allowed(events: list[tuple[float, bool]]):
    supervisor = started(recover_after_s=1.0)
    supervisor.well(0.0)
    now, well_since = 0.0, -np.inf
    for pause, is_fault in events:
        now += pause
        if is_fault:
            supervisor.fault(STALE)
            well_since = np.inf
        else:
            well_since = min(well_since, now)
            assert supervisor.well(now) == (now - well_since >= 1.0)


def test_a_request_outlives_the_supervisor():
    request = StopRequest()
    Supervisor(0.0, True, request).request_stop(Cause(Kind.REQUEST, "asked"))
    later = Supervisor(0.0, True, request)
    later.start()
    assert not later.well(1.0)
    assert later.resume() is None
    assert later.well(2.0)
    assert request.cause is None


# ---- wire


class Tape:
    """What went out."""

    def __init__(self, on_stop: str = "zero") -> None:
        self.sent: list[list[float]] = []
        self.broken = False
        self.wire = Wire([Outlet(self._publish, slice(0, 2), on_stop)], 2)
        self.wire.open()

    def _publish(self, command: np.ndarray) -> None:
        if self.broken:
            raise RuntimeError("no context")
        self.sent.append(command.tolist())


DRIVE = np.array([1.0, 2.0])


def test_a_stop_makes_earlier_tickets_worthless():
    tape = Tape()
    ticket = tape.wire.ticket()
    assert tape.wire.drive(DRIVE, ticket) == 1
    tape.wire.stop()
    assert tape.wire.drive(DRIVE, ticket) is None
    assert tape.wire.drive(DRIVE, tape.wire.ticket()) == 3
    assert tape.sent == [[1.0, 2.0], [0.0, 0.0], [1.0, 2.0]]


@pytest.mark.parametrize(
    ("on_stop", "expected"),
    [("zero", [[1.0, 2.0], [0.0, 0.0]]), ("hold", [[1.0, 2.0], [1.0, 2.0]]), ("none", [[1.0, 2.0]])],
)
def test_what_a_stop_sends(on_stop: str, expected: list[list[float]]):
    tape = Tape(on_stop)
    tape.wire.drive(DRIVE, tape.wire.ticket())
    tape.wire.stop()
    assert tape.sent == expected


def test_nothing_follows_the_last_stop():
    tape = Tape()
    ticket = tape.wire.ticket()
    assert tape.wire.close()
    assert tape.wire.drive(DRIVE, ticket) is None
    assert tape.wire.drive(DRIVE, tape.wire.ticket()) is None
    tape.wire.stop()
    assert not tape.wire.close()
    assert tape.sent == [[0.0, 0.0]]


def test_a_ticket_of_an_earlier_opening_is_worthless():
    tape = Tape()
    ticket = tape.wire.ticket()
    tape.wire.close()
    tape.wire.open()
    assert tape.wire.drive(DRIVE, ticket) is None, "an inference may hang from one opening into the next"


def test_nothing_of_an_earlier_opening_is_held():
    tape = Tape("hold")
    tape.wire.drive(DRIVE, tape.wire.ticket())
    tape.wire.close()
    tape.wire.open()
    tape.wire.stop()
    assert tape.sent == [[1.0, 2.0], [1.0, 2.0]], "a robot may have moved since: there is nothing to hold"
    assert np.isnan(tape.wire.last).all()


def test_a_stop_that_fails_still_closes():
    tape = Tape()
    tape.broken = True
    with pytest.raises(RuntimeError):
        tape.wire.close()
    tape.broken = False
    assert tape.wire.drive(DRIVE, tape.wire.ticket()) is None
    assert tape.sent == []


def test_the_stop_is_last_however_many_threads_drive():
    tape = Tape()
    go = threading.Event()

    def drive() -> None:
        go.wait()
        for _ in range(2000):
            tape.wire.drive(DRIVE, tape.wire.ticket())

    threads = [threading.Thread(target=drive) for _ in range(4)]
    for thread in threads:
        thread.start()
    go.set()
    tape.wire.close()
    for thread in threads:
        thread.join()
    assert tape.sent[-1] == [0.0, 0.0]


# ---- clock


def test_a_clock_of_the_wall():
    guard = ClockGuard(False, 0.2)
    second = 1_000_000_000
    assert guard.check(100 * second, 5.0) is None
    assert guard.check(101 * second, 6.1) is None
    back = guard.check(90 * second, 6.2)
    assert back is not None
    assert (back.kind, back.detail) == (Kind.CLOCK, "the clock jumped back by 11.000 s")
    forward = guard.check(100 * second, 6.3)
    assert forward is not None
    assert forward.detail.startswith("the clock jumped by 9.900 s")
    assert guard.check(100 * second, 6.4) is None
    guard.forget()
    assert guard.check(0, 6.5) is None


def test_a_clock_of_a_simulation():
    guard = ClockGuard(True, 0.2)
    silent = guard.check(0, 5.0)
    assert silent is not None
    assert "nothing has arrived on /clock" in silent.detail
    assert guard.check(10, 6.0) is None
    assert guard.check(10, 7.0) is None, "it may stand"
    assert guard.check(10_000_000_000, 7.0) is None, "and run at any pace"
    assert guard.check(9_000_000_000, 8.0) is not None


# ---- greediness


def control(slew: float = 0.0) -> tuple[OmegaControl, list[OmegaRecord]]:
    records: list[OmegaRecord] = []
    return OmegaControl(OmegaRange(0.5, -1.0, 4.0), slew, lambda: 42, records.append), records


def test_what_is_accepted_drives_next():
    omega, records = control()
    assert omega.step(0.1) == 0.5
    assert omega.request(2, "parameter") is None
    assert (omega.target, omega.step(0.1)) == (2.0, 2.0)
    assert records == [OmegaRecord(1, 42, "parameter", 0.5, 2.0, True, "accepted")]


@pytest.mark.parametrize("value", [4.0000001, -1.1, float("nan"), float("inf"), "much", None, True])
def test_what_is_not_is_recorded_and_never_clamped(value: object):
    omega, records = control()
    problem = omega.request(value, "topic")
    assert problem is not None
    assert omega.target == 0.5
    assert (records[0].accepted, records[0].reason, records[0].source) == (False, problem, "topic")


def test_the_range_is_named():
    assert control()[0].request(5.0, "topic") == "omega is 5.0, expected -1.0 to 4.0, the bundle's range"


def test_slew():
    omega, _ = control(slew=2.0)
    omega.request(1.0, "parameter")
    assert [round(omega.step(0.1), 6) for _ in range(4)] == [0.7, 0.9, 1.0, 1.0]
    omega.request(-1.0, "parameter")
    assert round(omega.step(0.5), 6) == 0.0
    omega.begin(3.0, "configure")
    assert omega.step(0.0) == 3.0


def test_another_bundles_range_must_hold_what_drives():
    omega, _ = control()
    omega.request(3.0, "parameter")
    narrow = OmegaRange(0.0, 0.0, 2.0)
    assert omega.range_problem(narrow) == "omega is 3.0, expected 0.0 to 2.0, the bundle's range"
    assert omega.range_problem(OmegaRange(0.0, 0.0, 3.0)) is None
    omega.request(1.0, "parameter")
    assert omega.range_problem(narrow) is None, "whether or not there was a period since"
    omega.change_range(OmegaRange(0.0, 0.0, 3.0))
    assert omega.request(3.5, "parameter") is not None


def test_what_still_drives_during_a_slew_counts_too():
    omega, _ = control(slew=1.0)
    omega.begin(3.0, "configure")
    omega.request(1.0, "parameter")
    omega.step(0.5)
    assert omega.range_problem(OmegaRange(0.0, 0.0, 2.0)) is not None
    omega.step(0.5)
    assert omega.range_problem(OmegaRange(0.0, 0.0, 2.0)) is None


def test_records_are_complete_and_in_order_from_many_threads():
    omega, records = control()
    threads = [
        threading.Thread(target=lambda: [omega.request(value / 50.0, "topic") for value in range(100)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [record.number for record in records] == list(range(1, 401))
    assert all(before.new == after.old for before, after in pairwise(records))


# ---- statistics and watchdog


def test_statistics_are_bounded_and_right():
    statistics = Statistics(0.1)
    for count in range(5000):
        statistics.started(count * 0.1)
        statistics.inferred(count * 1e-3)
    latency = statistics.latency()
    assert latency.count == 1000
    assert latency.max == pytest.approx(4.999)
    assert latency.mean == pytest.approx(4.4995)
    assert statistics.jitter().max == pytest.approx(0.0, abs=1e-9)
    statistics.paused()
    assert statistics.started(9999.0) is None
    assert statistics.started(9999.3) == pytest.approx(0.3)
    assert statistics.jitter().max == pytest.approx(0.2)
    assert summary(deque()).max == 0.0


def test_the_watchdog_survives_its_check_and_ends():
    calls, errors = [], []
    enough = threading.Event()

    def check() -> None:
        calls.append(1)
        if len(calls) >= 3:
            enough.set()
        raise ValueError("broken")

    watchdog = Watchdog(check, 0.001, errors.append)
    assert enough.wait(5.0)
    watchdog.end()
    count = len(calls)
    assert count == len(errors)
    enough.wait(0.02)
    assert len(calls) == count
