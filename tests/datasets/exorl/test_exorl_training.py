"""``dipole train task=exorl/…``: all nine tasks run on a recording in the published format."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from exorl_recordings import TASKS, record

from dipole_sb3.cli import main

SMALL = [
    "offline_steps=2",
    "algo.batch_size=4",
    "algo.policy_kwargs.net_arch=[16,16]",
    "algo.flow_steps=2",
    "algo.verbose=0",
]


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


def test_example_of_the_docs_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path / "walker/rnd", "walker", "walk")
    monkeypatch.setenv("EXORL_DATA_DIR", str(tmp_path))
    page = Path(__file__).parents[3] / "docs" / "exorl.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, page.name, "exec"), names)
    assert names["env"].observation_space == names["dataset"].observation_space
