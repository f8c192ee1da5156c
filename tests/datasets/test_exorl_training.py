"""``dipole train task=exorl/…``: all nine tasks run on a recording in the published format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from exorl_recordings import TASKS

from dipole_sb3.cli import main

SMALL = ["steps=2", "algo.batch_size=4", "algo.policy_kwargs.net_arch=[16]", "algo.flow_steps=2", "algo.verbose=0"]


def train(recorded: tuple[Path, Any], domain: str, task: str, folder: Path, *options: str) -> Path:
    arguments = [f"task=exorl/{domain}-{task}", f"task.algorithm={task}", f"task.dataset_dir={recorded[0]}"]
    assert main(["train", *arguments, *SMALL, "pictures=false", f"run_dir={folder}", *options]) == 0
    return folder


@pytest.mark.parametrize(("domain", "task"), TASKS, ids=map("-".join, TASKS))
def test_every_task_trains(recorded: tuple[Path, Any], tmp_path: Path, domain: str, task: str) -> None:
    run = train(recorded, domain, task, tmp_path / "run", "episodes=0", "algo.num_candidates=2")
    assert (run / "model.zip").exists()
    facts = json.loads((run / "dataset.json").read_text())
    assert (facts["source"], facts["env_id"]) == (f"exorl/{domain}/{task}/{task}", f"exorl/{domain}-{task}-v0")


def test_trained_models_are_evaluated_in_their_environment(recorded: tuple[Path, Any], tmp_path: Path) -> None:
    options = ["episodes=2", "omegas=[0]", "candidates=[1]", "processes=1"]
    run = train(recorded, "jaco", "reach-top-right", tmp_path / "run", *options)
    assert (run / "omega_sweep.csv").exists()
