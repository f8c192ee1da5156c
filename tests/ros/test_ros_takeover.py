"""Bundles that take over while the loop runs, and ω that belongs to them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bench import Bench, expected, wait_until
from dipole_policy.errors import ContractError, GuidedPolicyError
from dipole_policy.holder import Loaded, ReloadBusy
from dipole_runtime.manifest import OmegaRange


@pytest.fixture
def bench(bundle: Path) -> Bench:
    return Bench(bundle)


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
        bench.loop.swap(bench.fitting.load(str(make_bundle(omega=OmegaRange(0.5, -1.0, 1.0)))))
        self.wide = bench.fitting.load(str(make_bundle(seed=5, omega=OmegaRange(0.5, -1.0, 4.0))))

    def meanwhile(self, do: Callable[[], Any]) -> None:
        """Starts it, and goes on when it is over or waits for us."""
        thread = threading.Thread(target=do, daemon=True)
        thread.start()
        thread.join(0.3)

    def take_over(self) -> None:
        self.bench.loop.swap(self.wide)
        self.bench.loop.omega.request(3.5, "topic")


def test_no_period_sees_a_bundle_with_the_next_ones_omega(bench: Bench, make_bundle: Callable[..., Path]):
    belonging = Belonging(bench, make_bundle)
    step = bench.loop.omega.step

    def disturbed(elapsed: float) -> float:
        bench.loop.omega.step = step  # type: ignore[method-assign]
        belonging.meanwhile(belonging.take_over)
        return step(elapsed)

    bench.loop.omega.step = disturbed  # type: ignore[method-assign]
    bench.period()
    wait_until(lambda: bench.loop.omega.target == 3.5)
    bench.period()
    assert [str(cause) for cause, _ in bench.faults] == []
    assert [decision.action.omega for decision in bench.decisions] == [0.5, 3.5]


def test_no_omega_is_accepted_for_a_bundle_that_does_not_drive_yet(bench: Bench, make_bundle: Callable[..., Path]):
    belonging = Belonging(bench, make_bundle)
    swap = bench.loop.holder.swap

    def turn_and_drive() -> None:
        bench.loop.omega.request(3.5, "topic")
        bench.period()

    def disturbed(loaded: Loaded) -> None:
        belonging.meanwhile(turn_and_drive)
        swap(loaded)

    bench.loop.holder.swap = disturbed  # type: ignore[method-assign]
    bench.loop.swap(belonging.wide)
    wait_until(lambda: bench.sent)
    assert [str(cause) for cause, _ in bench.faults] == []
    assert bench.decisions[0].loaded is belonging.wide
