"""Small environments whose episodes are known in advance."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

OBSERVATION_SPACE = spaces.Box(-10.0, 10.0, (3,), np.float32)
ACTION_SPACE = spaces.Box(-2.0, 2.0, (2,), np.float32)


class Scripted(gymnasium.Env[Any, Any]):
    """Episodes that follow from the seed: 2 + seed % 5 steps, a reward of 1 + seed in each, success if seed % 3 is 0.

    The info says the opposite of the success in every step but the last.
    """

    observation_space: spaces.Space[Any] = OBSERVATION_SPACE
    action_space: spaces.Space[Any] = ACTION_SPACE
    success_key = "success"

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        assert seed is not None
        self.seed, self.steps = seed, 0
        return self.observe(), {}

    def observe(self) -> Any:
        return np.full(3, self.steps / 10, np.float32)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.steps += 1
        done = self.steps == 2 + self.seed % 5
        succeeds = self.seed % 3 == 0
        return self.observe(), 1.0 + self.seed, done, False, {self.success_key: succeeds == done}

    @staticmethod
    def expected_return(seed: int) -> float:
        return (2 + seed % 5) * (1.0 + seed)


class ScriptedIsSuccess(Scripted):
    """The same, with Stable-Baselines3's key."""

    success_key = "is_success"


class ScriptedDict(Scripted):
    """The same, with Dict observations."""

    observation_space = spaces.Dict({"arm": OBSERVATION_SPACE, "gripper": spaces.Box(0.0, 1.0, (1,), np.float32)})

    def observe(self) -> Any:
        return {"arm": super().observe(), "gripper": np.zeros(1, np.float32)}


class SometimesSilent(Scripted):
    """Tells success in some episodes only."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        *answer, info = super().step(action)
        return *answer, info if self.seed % 2 else {}  # type: ignore[return-value]


class Careless(Scripted):
    """Draws its rewards from NumPy's global generator, as some published environments do."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        observation, _, done, truncated, _ = super().step(action)
        return observation, float(np.random.random()), done, truncated, {}


class Broken(Scripted):
    """Raises in the second step."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.steps == 1:
            raise ArithmeticError("the arm is stuck")
        return super().step(action)


class Deadly(Scripted):
    """Takes its process with it."""

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        os._exit(1)


class EndsByAction(Scripted):
    """Episodes of up to 12 steps that end when the first action is large: their lengths depend on who acts."""

    def observe(self) -> Any:
        return np.array([self.steps / 10, self.seed / 10, 1.0], np.float32)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        done = bool(self.steps == 12 or action[0] > 1.2)
        return self.observe(), float(action[1]), done, False, {"success": self.steps < 12}


class Watched(EndsByAction):
    """Tells a file what happens to it, and whose process it lives in."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def tell(self, word: str) -> None:
        with self.path.open("a") as file:
            file.write(f"{word} {os.getpid()}\n")

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.tell("reset")
        return super().reset(seed=seed, options=options)

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.tell("step")
        return super().step(action)


class Gated(Watched):
    """Begins no episode until a file is there."""

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        answer = super().reset(seed=seed, options=options)
        deadline = time.monotonic() + 60
        while not self.path.with_name("gate").exists():
            if time.monotonic() > deadline:
                self.tell("late")
                raise TimeoutError("nobody opened the gate")
            time.sleep(0.01)
        return answer
