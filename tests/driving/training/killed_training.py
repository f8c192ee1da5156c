"""A program that trains driving agents, each killed in the middle and taken up again; for the test of that name.

It forks, so that torch and transformers are imported once and not for every life.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from small_scenes import NearnessScorer, SmallScenes, smallest

from dipole_sb3.common import files
from dipole_sb3.driving import DPVLA
from dipole_sb3.driving.training.losses import ClippedRatio, WeightedRegression

SCENES = 7


def dying_at(call: int, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, at whose n-th call the process is killed."""
    left = [call]

    def counted(*arguments: Any, **named: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **named)

    return counted


def live(folder: Path, method: str, where: str | None = None, call: int = 0) -> None:
    """Trains to the end, from the beginning or from the checkpoint; or is killed at a call of something."""
    scenes, scorer = SmallScenes(SCENES), NearnessScorer()
    if where == "scenes":
        scenes.observations = dying_at(call, scenes.observations)  # type: ignore[method-assign]
    if where == "scorer":
        scorer.score_plans = dying_at(call, scorer.score_plans)  # type: ignore[method-assign]
    if where == "update":
        for loss in (WeightedRegression, ClippedRatio):
            loss.forward = dying_at(call, loss.forward)  # type: ignore[method-assign]
    if where == "file":
        files.os.replace = dying_at(call, os.replace)  # type: ignore[attr-defined]
    if (folder / "agent.json").is_file():
        agent = DPVLA.resume(folder, scenes, scorer=scorer, device="cpu", save_freq=2)
    else:
        agent = DPVLA(smallest(), scenes, seed=5, device="cpu")
    kept: dict[str, Any] = {"save_path": folder, "save_freq": 2, "batch_size": 3, "learning_rate": 1e-2}
    if not agent.pretrained_epochs:
        agent.pretrain(4, **kept)
    if agent.method is None:
        agent.finetune(30, method=method, group_size=3, scorer=scorer, **kept)  # type: ignore[arg-type]


def in_a_process_of_its_own(*arguments: Any) -> int:
    """Its wait status."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            live(*arguments)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1]


if __name__ == "__main__":
    torch.set_num_threads(1)
    statuses = {}
    for name, (method, where, call) in json.loads(sys.argv[1]).items():
        whole, killed = Path(f"whole-{method}"), Path(name)
        if not whole.is_dir():
            in_a_process_of_its_own(whole, method)
        statuses[name] = [in_a_process_of_its_own(killed, method, where, call), in_a_process_of_its_own(killed, method)]
    print(json.dumps(statuses))
