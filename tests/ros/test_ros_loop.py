"""Control periods on a real bundle, with a clock that the test turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dipole_policy.clocks import ClockGuard
from dipole_policy.errors import Cause, ContractError, GuidedPolicyError, Kind
from dipole_policy.holder import Fitting, Loaded, PolicyHolder, PolicyOptions, ReloadBusy
from dipole_policy.loop import ControlLoop, Decision, distance
from dipole_policy.observation import Inputs
from dipole_policy.omega import OmegaControl
from dipole_policy.supervisor import State, Supervisor
from dipole_policy.wire import Wire
from dipole_runtime import GuidedPolicy
from dipole_runtime.manifest import OmegaRange
from robots import CONTRACT, contract, describe, joint_state, number, replaced

PERIOD = 0.05


class Slow:
    """A policy that does something before it answers."""

    def __init__(self, policy: GuidedPolicy, before: Callable[[], None]) -> None:
        self._policy, self._before = policy, before
        self.manifest, self.hash = policy.manifest, policy.hash

    def act(self, *arguments: Any, **more: Any) -> Any:
        self._before()
        return self._policy.act(*arguments, **more)


class Bench:
    """A loop whose clock stands still until it is turned."""

    def __init__(self, bundle: Path, text: str = CONTRACT, shadow_only: bool = False, automatic: bool = True) -> None:
        self.fitting = Fitting(contract(text), describe, PolicyOptions())
        loaded = self.fitting.load(str(bundle))
        self.now = 100.0
        self.wall_offset = 0.0
        self.sent: list[list[float]] = []
        self.decisions: list[Decision] = []
        self.faults: list[tuple[Cause, bool]] = []
        self.loop = ControlLoop(
            PolicyHolder(loaded),
            Inputs(self.fitting.readers),
            Wire(lambda command: self.sent.append(command.tolist()), self.fitting.contract.action.on_stop, 2),
            Supervisor(0.19, automatic),
            OmegaControl(loaded.policy.manifest.omega, 0.0, self.now_ns, lambda record: None),
            ClockGuard(False, 0.2),
            period_s=PERIOD,
            deadline_s=self.fitting.contract.deadline_s,
            now_ns=self.now_ns,
            on_decision=self.decisions.append,
            on_fault=lambda cause, news: self.faults.append((cause, news)),
            shadow_only=shadow_only,
            steady=lambda: self.now,
        )
        self.loop.start()

    def now_ns(self) -> int:
        return int((self.now + self.wall_offset) * 1e9)

    def hear(self, speed: float = 0.3) -> None:
        self.loop.inputs.receive("/joint_states", joint_state({"elbow": 0.1, "wrist": 0.2}), self.now_ns())
        self.loop.inputs.receive("/speed", number(speed), self.now_ns())

    def period(self, fresh: bool = True) -> None:
        if fresh:
            self.hear()
        self.loop.period()
        self.now += PERIOD

    def replace_policy(self, before: Callable[[], None]) -> None:
        holder = self.loop.holder
        slow: Any = Slow(holder.current.policy, before)
        holder.current = Loaded(**{**vars(holder.current), "policy": slow})


@pytest.fixture
def bench(bundle: Path) -> Bench:
    return Bench(bundle)


def expected(bench: Bench, omega: float = 0.5) -> list[float]:
    policy = bench.loop.holder.current.policy
    action = policy.act(np.array([0.1, 0.2, 0.3], np.float32), omega, policy.deterministic_noise()).action
    return [float(value) for value in action]


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
    hanging, released = threading.Event(), threading.Event()

    def hang() -> None:
        hanging.set()
        released.wait(10.0)

    bench.replace_policy(hang)
    thread = threading.Thread(target=bench.period)
    thread.start()
    assert hanging.wait(10.0)
    bench.loop.watch(0.0)
    assert len(bench.sent) == 1, "it is not late yet"
    bench.now += 0.6
    bench.loop.watch(0.0)
    bench.loop.watch(0.0)
    assert bench.sent[1:] == [[0.0, 0.0]], "the stop goes out while the inference hangs"
    released.set()
    thread.join()
    assert bench.sent[1:] == [[0.0, 0.0]], "what it says at last is not sent"
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

    def fail(command: Any) -> None:
        raise RuntimeError("no context")

    bench.loop.wire._publish = fail
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


# ---- reload


def test_a_swap_counts_from_the_next_period(bench: Bench, make_bundle: Callable[..., Path]):
    other = bench.fitting.replace(bench.loop.holder.current, str(make_bundle(seed=7)))
    before = expected(bench)
    # In the middle of an inference: that one still ends with the old bundle.
    bench.replace_policy(lambda: bench.loop.swap(other))
    bench.period()
    bench.period()
    assert bench.sent == [before, expected(bench)]
    assert bench.decisions[1].loaded is other
    assert before != expected(bench)


def test_bundles_that_may_not_take_over(bench: Bench, make_bundle: Callable[..., Path], tmp_path: Path):
    current = bench.loop.holder.current
    with pytest.raises(GuidedPolicyError, match="cannot load"):
        bench.fitting.replace(current, str(tmp_path / "nothing"))
    with pytest.raises(ContractError, match=r"observation has 2 \+ 1 = 3 elements, expected the bundle's 4"):
        bench.fitting.replace(current, str(make_bundle(observation=4)))
    with pytest.raises(
        ContractError, match=r"action has the elements .* expected those that drive: 'joint_0, joint_1'"
    ):
        bench.fitting.replace(current, str(make_bundle(action=3)))
    bench.loop.omega.request(3.0, "parameter")
    narrow = bench.fitting.replace(current, str(make_bundle(seed=3, omega=OmegaRange(0.5, 0.0, 1.0))))
    with pytest.raises(ContractError, match=r"omega is 3.0, expected 0.0 to 1.0, the bundle's range"):
        bench.loop.swap(narrow)
    bench.loop.omega.request(0.5, "parameter")
    bench.loop.shadow_omegas = (2.0,)
    with pytest.raises(ContractError, match=r"shadow_omegas: omega is 2.0, expected 0.0 to 1.0"):
        bench.loop.swap(narrow)
    assert bench.loop.holder.current is current
    assert bench.loop.holder.reloads == 0


def test_one_reload_at_a_time(bench: Bench):
    with bench.loop.holder.reloading(), pytest.raises(ReloadBusy), bench.loop.holder.reloading():
        pass
    with bench.loop.holder.reloading():
        pass


class Belonging:
    """Two bundles, and a thread that lets the wide one take over and turns ω to what only that one allows."""

    def __init__(self, bench: Bench, make_bundle: Callable[..., Path]) -> None:
        self.bench = bench
        self.wide = bench.fitting.load(str(make_bundle(seed=5, omega=OmegaRange(0.5, -1.0, 40.0))))

    def meanwhile(self, do: Callable[[], Any]) -> None:
        """Starts it, and goes on when it is over or waits for us."""
        thread = threading.Thread(target=do, daemon=True)
        thread.start()
        thread.join(0.3)

    def take_over(self) -> None:
        self.bench.loop.swap(self.wide)
        self.bench.loop.omega.request(30.0, "topic")


def test_no_period_sees_a_bundle_with_the_next_ones_omega(bench: Bench, make_bundle: Callable[..., Path]):
    belonging = Belonging(bench, make_bundle)
    snapshot = bench.loop.inputs.snapshot

    def disturbed() -> Any:
        bench.loop.inputs.snapshot = snapshot  # type: ignore[method-assign]
        belonging.meanwhile(belonging.take_over)
        return snapshot()

    bench.loop.inputs.snapshot = disturbed  # type: ignore[method-assign]
    bench.period()
    wait_until(lambda: bench.loop.omega.target == 30.0)
    bench.period()
    assert [str(cause) for cause, _ in bench.faults] == []
    assert [decision.action.omega for decision in bench.decisions] == [0.5, 30.0]


def test_no_omega_is_accepted_for_a_bundle_that_does_not_drive_yet(bench: Bench, make_bundle: Callable[..., Path]):
    belonging = Belonging(bench, make_bundle)
    swap = bench.loop.holder.swap

    def turn_and_drive() -> None:
        bench.loop.omega.request(30.0, "topic")
        bench.period()

    def disturbed(loaded: Loaded) -> None:
        belonging.meanwhile(turn_and_drive)
        swap(loaded)

    bench.loop.holder.swap = disturbed  # type: ignore[method-assign]
    bench.loop.swap(belonging.wide)
    wait_until(lambda: bench.sent)
    assert [str(cause) for cause, _ in bench.faults] == []
    assert bench.decisions[0].loaded is belonging.wide


def wait_until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + 10.0
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)
