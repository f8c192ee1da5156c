"""A control loop on a real bundle, with a clock that the test turns."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from dipole_policy.clocks import ClockGuard
from dipole_policy.deadlines import Deadlines
from dipole_policy.errors import Cause
from dipole_policy.holder import Fitting, Loaded, PolicyHolder, PolicyOptions
from dipole_policy.loop import ControlLoop, Decision
from dipole_policy.observation import Inputs
from dipole_policy.omega import OmegaControl, OmegaRecord
from dipole_policy.outlets import outlets
from dipole_policy.supervisor import Supervisor
from dipole_policy.wire import Wire
from dipole_runtime import GuidedPolicy
from robots import CONTRACT, contract, describe, joint_state, number

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

    def __init__(
        self,
        bundle: Path,
        text: str = CONTRACT,
        shadow_only: bool = False,
        automatic: bool = True,
        period_s: float = PERIOD,
    ) -> None:
        self.fitting = Fitting(contract(text), describe, PolicyOptions())
        loaded = self.fitting.load(str(bundle))
        self.now = 100.0
        self.wall_offset = 0.0
        self.sent: list[list[float]] = []
        self.decisions: list[Decision] = []
        self.faults: list[tuple[Cause, bool]] = []
        self.audit: list[OmegaRecord] = []
        inputs, robot = Inputs(self.fitting.input_readers), self.fitting.contract
        self.topics: list[str] = []
        self.broken = False
        self.loop = ControlLoop(
            PolicyHolder(loaded),
            inputs,
            Wire(outlets(robot, loaded, inputs, self.now_ns, self._publish), loaded.limits.size),
            Supervisor(0.19, automatic),
            OmegaControl(loaded.policy.manifest.omega, 0.0, self.now_ns, self.audit.append),
            ClockGuard(False, 0.2),
            period_s=period_s,
            deadlines=Deadlines(robot.deadline_s, robot.deadline_misses, period_s),
            now_ns=self.now_ns,
            on_decision=self.decisions.append,
            on_fault=lambda cause, news: self.faults.append((cause, news)),
            shadow_only=shadow_only,
            steady=lambda: self.now,
        )
        self.loop.start()

    def _publish(self, index: int, command: Any) -> None:
        if self.broken:
            raise RuntimeError("no context")
        self.topics.append(self.fitting.contract.actions[index].topic)
        self.sent.append(command.tolist())

    @contextmanager
    def hanging(self) -> Iterator[None]:
        """A period is under way in another thread, and its policy answers only at the end of the block."""
        begun, released = threading.Event(), threading.Event()

        def hang() -> None:
            begun.set()
            released.wait(10.0)

        self.replace_policy(hang)
        thread = threading.Thread(target=self.period)
        thread.start()
        assert begun.wait(10.0)
        try:
            yield
        finally:
            released.set()
            thread.join()

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


def expected(bench: Bench, omega: float = 0.5) -> list[float]:
    policy = bench.loop.holder.current.policy
    observation = np.array([0.1, 0.2, 0.3], np.float32)
    if policy.manifest.policy == "deterministic":
        return [float(value) for value in policy.act(observation).action]
    action = policy.act(observation, omega, policy.deterministic_noise()).action
    return [float(value) for value in action]


def wait_until(holds: Callable[[], Any]) -> None:
    end = time.monotonic() + 10.0
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.001)
