"""Control periods on a real bundle, with a clock that the test turns."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest
from bench import Bench, expected
from dipole_policy.errors import Cause, Kind
from dipole_policy.loop import Decision, distance, watch_interval_s
from dipole_policy.supervisor import State
from robots import replaced


@pytest.fixture
def bench(bundle: Path) -> Bench:
    return Bench(bundle)


def test_a_period_sends_the_policys_action(bench: Bench):
    bench.period()
    assert bench.sent == [expected(bench)]
    assert bench.faults == []
    assert (bench.decisions[0].number, bench.decisions[0].action.omega) == (1, 0.5)


def test_a_turn_of_omega_takes_effect_at_the_next_inference(bench: Bench):
    bench.period()
    bench.loop.omega.request(3.0, "parameter")
    bench.period()
    assert bench.sent == [expected(bench), expected(bench, 3.0)]
    assert bench.sent[0] != bench.sent[1]


def test_a_stale_input_stops_and_fresh_ones_resume_after_a_while(bench: Bench):
    bench.period()
    bench.now += 1.0
    # The wall's clock and the steady one are the same here: nothing jumps.
    bench.period(fresh=False)
    assert bench.sent[-1] == [0.0, 0.0]
    assert bench.faults[-1][0].kind is Kind.STALE
    for _ in range(4):
        count = len(bench.sent)
        bench.period()
        assert bench.sent[count:] == [[0.0, 0.0]], "it recovers first, and says so to the actuators"
    bench.period()
    assert bench.sent[-1] == expected(bench)
    assert bench.loop.statistics.faults() == {"stale input": 1}


def test_waiting_for_the_first_message_stops_too(bench: Bench):
    bench.period(fresh=False)
    assert bench.sent == [[0.0, 0.0]]
    assert bench.loop.supervisor.state is State.WAITING
    bench.period()
    assert bench.sent[-1] == expected(bench)


def test_a_policy_that_raises(bench: Bench):
    def fail() -> None:
        raise RuntimeError("out of\nmemory")

    bench.period()
    bench.replace_policy(fail)
    bench.period()
    assert bench.sent[-1] == [0.0, 0.0]
    assert str(bench.faults[-1][0]) == "exception: RuntimeError: out of memory"


def test_a_late_answer_is_not_sent(bench: Bench):
    bench.period()

    def dawdle() -> None:
        bench.now += 0.6

    bench.replace_policy(dawdle)
    bench.period()
    assert bench.sent[-1] == [0.0, 0.0]
    assert bench.faults[-1][0].kind is Kind.DEADLINE
    assert len(bench.decisions) == 1


def test_an_answer_that_hangs_is_stopped_from_outside_and_its_action_dropped(bench: Bench):
    bench.period()
    with bench.hanging():
        bench.loop.watch(0.0)
        assert len(bench.sent) == 1, "it is not late yet"
        bench.now += 0.6
        bench.loop.watch(0.0)
        bench.loop.watch(0.0)
        assert bench.sent[1:] == [[0.0, 0.0]] * 2, "the stop goes out while the inference hangs"
    assert bench.sent[1:] == [[0.0, 0.0]] * 3, "what it says at last is not sent"
    assert bench.loop.statistics.faults() == {"missed deadline": 1}


def test_a_stop_during_an_inference_wins(bench: Bench):
    bench.period()
    bench.replace_policy(lambda: bench.loop.stop(Cause(Kind.EXCEPTION, "elsewhere")))
    bench.period()
    assert all(command == [0.0, 0.0] for command in bench.sent[1:])
    assert len(bench.sent) > 1


def test_the_end_during_an_inference_wins(bench: Bench):
    bench.period()
    bench.replace_policy(bench.loop.end)
    bench.period()
    assert bench.sent[-1] == [0.0, 0.0]
    bench.period()
    assert len(bench.sent) == 2
    assert bench.loop.supervisor.state is State.OFF


def test_a_loop_that_does_not_run_is_stopped_from_outside(bench: Bench):
    bench.period()
    bench.now += 0.4
    bench.loop.watch(0.5)
    assert len(bench.sent) == 1
    bench.now += 0.4
    bench.loop.watch(0.0)
    assert len(bench.sent) == 1, "0 is for simulations that pause"
    bench.loop.watch(0.5)
    assert bench.sent[-1] == [0.0, 0.0]
    assert bench.faults[-1][0].kind is Kind.STALLED


def test_a_slow_loop_is_not_taken_for_one_that_does_not_run(bundle: Path):
    bench = Bench(bundle, period_s=1.0)
    bench.period()
    for _ in range(9):
        bench.now += 0.2
        bench.loop.watch(0.5)
    assert len(bench.sent) == 1, "1.8 s are less than two periods"
    bench.now += 0.3
    bench.loop.watch(0.5)
    assert bench.faults[-1][0].detail.endswith(" s, expected one every 1.0 s")


@pytest.mark.parametrize(
    ("period_s", "deadline_s", "expected"), [(1.0, 0.1, 0.05), (1.0, 1.0, 0.5), (0.02, 0.02, 0.02), (5e-3, 5e-3, 5e-3)]
)
def test_the_watch_looks_often_enough_for_the_deadline(period_s: float, deadline_s: float, expected: float):
    assert watch_interval_s(period_s, deadline_s) == expected


def test_a_jump_of_the_clock_forgets_the_inputs(bench: Bench):
    bench.period()
    bench.loop.clock_jumped(Cause(Kind.CLOCK, "back"))
    bench.period(fresh=False)
    assert bench.faults[-1][0].kind is Kind.MISSING
    assert bench.sent[1:] == [[0.0, 0.0], [0.0, 0.0]]


def test_a_jump_between_two_periods(bench: Bench):
    bench.period()
    bench.wall_offset = -50.0
    bench.period()
    assert str(bench.faults[-1][0]) == "clock: the clock jumped back by 49.950 s"
    assert bench.sent[-1] == [0.0, 0.0]


def test_what_the_clock_does_while_the_node_is_inactive_does_not_matter(bench: Bench):
    bench.period()
    bench.loop.end()
    bench.wall_offset = -50.0
    bench.loop.start()
    bench.period()
    assert bench.faults == []
    assert bench.sent[-1] == expected(bench)


def test_messages_from_before_the_activation_do_not_drive(bench: Bench):
    bench.loop.end()
    bench.hear()
    bench.loop.start()
    bench.period(fresh=False)
    assert bench.sent[-1] == [0.0, 0.0]


def test_what_is_told_about_a_command_cannot_stop_the_stop(bench: Bench):
    def fail(decision: Decision) -> None:
        raise RuntimeError("telemetry")

    bench.loop._on_decision = fail
    bench.period()
    assert bench.sent == [expected(bench), [0.0, 0.0]]


def test_a_stop_that_cannot_be_sent_is_told(bench: Bench):
    bench.period()

    bench.broken = True
    bench.loop.stop(Cause(Kind.STALE, "old"))
    assert "the stop action cannot be sent (no context) after stale input: old" in str(bench.faults[-1][0])


def test_shadow_only_drives_nothing(bundle: Path):
    bench = Bench(bundle, shadow_only=True)
    bench.loop.shadow_omegas = (0.0, 0.5, 4.0)
    bench.period()
    bench.period(fresh=False)
    bench.loop.end()
    assert bench.sent == []
    decision = bench.decisions[0]
    assert decision.number is None
    assert [action.omega for action in decision.shadow] == [0.0, 0.5, 4.0]
    far = [distance(action, decision.action, decision.loaded) for action in decision.shadow]
    assert far[1] == pytest.approx(0.0, abs=1e-6)
    assert far[2] > 0.0


def test_the_shadow_does_not_change_what_drives(bench: Bench):
    bench.loop.shadow_omegas = (0.0, 4.0)
    bench.period()
    np.testing.assert_allclose(bench.sent[0], expected(bench), atol=1e-5)
    policy = bench.loop.holder.current.policy
    shadow = bench.decisions[0].shadow[1]
    alone = policy.act(np.array([0.1, 0.2, 0.3], np.float32), 4.0, policy.deterministic_noise())
    np.testing.assert_allclose(shadow.action, alone.action, atol=1e-5)
    root_mean_square = np.sqrt(np.mean(((shadow.action - np.array(bench.sent[0])) / np.array([3.0, 4.0])) ** 2))
    assert distance(shadow, bench.decisions[0].action, bench.decisions[0].loaded) == pytest.approx(
        root_mean_square, abs=1e-5
    )


def test_shadow_omegas_outside_of_the_range(bench: Bench):
    assert bench.loop.shadow_problem([0.0, 9.0]) == (
        "shadow_omegas: omega is 9.0, expected -1.0 to 4.0, the bundle's range"
    )
    assert bench.loop.shadow_problem([]) is None


def test_rates_hold_from_one_command_to_the_next_and_from_a_stop(bundle: Path):
    bench = Bench(bundle, replaced("on_stop: zero", "on_stop: zero, max_rate: [1.0, 1.0]"))
    for _ in range(6):
        bench.period()
    steps = np.diff(np.vstack([[0.0, 0.0], *bench.sent]), axis=0)
    assert np.abs(steps).max() <= 0.05 + 1e-9
    assert np.abs(steps).max() > 0.0


def test_what_tells_of_a_fault_may_fail(bundle: Path):
    """A loop that ended then would leave the robot to the watchdog."""
    bench = Bench(bundle)
    bench.period()

    def fail(cause: Cause, news: bool) -> None:
        raise RuntimeError("diagnostics")

    bench.loop._on_fault = fail
    bench.loop.stop(Cause(Kind.EXCEPTION, "elsewhere"))
    bench.now += 5.0
    bench.period(fresh=False)
    assert bench.sent[-1] == [0.0, 0.0]
    assert bench.loop.telling_failed == "diagnostics"


def test_a_clock_jump_stops_first(bundle: Path):
    bench = Bench(bundle)
    bench.period()

    def fail() -> None:
        raise RuntimeError("middleware")

    bench.loop.inputs.take = fail
    with pytest.raises(RuntimeError, match="middleware"):
        bench.loop.clock_jumped(Cause(Kind.CLOCK, "jumped"))
    assert bench.sent[-1] == [0.0, 0.0]


def test_reading_the_inputs_keeps_no_reload_waiting(bench: Bench):
    taken: list[bool] = []

    def take() -> None:
        def reload() -> None:
            taken.append(bench.loop.omega.lock.acquire(timeout=5.0))
            if taken[-1]:
                bench.loop.omega.lock.release()

        thread = threading.Thread(target=reload)
        thread.start()
        thread.join()

    bench.loop.inputs.take = take
    bench.period()
    assert taken
    assert all(taken)
    assert bench.sent == [expected(bench)]
