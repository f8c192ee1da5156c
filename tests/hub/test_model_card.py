"""The card of a model: its figures are those of the evaluation, the hub understands it, and its program runs."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from huggingface_hub import ModelCard
from local_hub import LocalHub
from recordings import Arrays

from dipole_sb3 import DIPOLE, IQL
from dipole_sb3.common.public_names import public_name, without_folders
from dipole_sb3.evaluation.sweep import SweepRow
from dipole_sb3.learning.model_card import Story, versions_in, write_card


@dataclass
class Found:
    rows: list[SweepRow]


def row(setting: Mapping[str, float], mean: float, half: float, **success: float) -> SweepRow:
    return SweepRow(setting, 25, mean, mean - half, mean + half, **success)


def cell(omega: float, candidates: float, mean: float, half: float = 1.0, **success: float) -> SweepRow:
    return row({"omega": omega, "num_candidates": candidates}, mean, half, **success)


@pytest.fixture(scope="module")
def model(reacher_data: Arrays) -> DIPOLE:
    """Its own setting is ω = 0.5, N = 4."""
    kwargs = {"net_arch": [4, 8]}
    return DIPOLE("MlpPolicy", dataset=reacher_data, policy_kwargs=kwargs, device="cpu", seed=7).learn(3)


def table_in(card: str, header: str) -> list[list[str]]:
    """The rows of a Markdown table by its first line."""
    after = card[card.index(header) :].split("\n\n")[0]
    return [[part.strip() for part in line.strip("|").split("|")] for line in after.splitlines()]


def test_the_table_of_returns(model: DIPOLE) -> None:
    cells = [cell(-1, 1, -20.5), cell(0.5, 1, -9.876), cell(-1, 4, -8, 0.5), cell(0.5, 4, 3.25, 10)]
    card = write_card(model, "me/arm", Story("Reacher-v5", cells))
    assert table_in(card, "| ω | N = 1 |") == [
        ["ω", "N = 1", "N = 4"],
        ["--:", "--:", "--:"],
        ["−1", "−20.50 [−21.50, −19.50]", "−8.00 [−8.50, −7.50]"],
        ["0.5", "−9.88 [−10.88, −8.88]", "**3.25 [−6.75, 13.25]**"],
    ]
    assert "Return of an episode, with its 95 % interval; the same 25 starts in every cell:" in card
    assert "- **ω**, `model.omega`: greediness ω ≥ −1 of `predict`: −1 the negative policy, 0 the positive" in card


def test_success_comes_first(model: DIPOLE) -> None:
    success = {"success_mean": 0.68, "success_low": 0.484, "success_high": 0.828}
    card = write_card(model, "me/arm", Story("cube", [cell(1, 1, -50, **success)]))
    assert card.index("Success rate, with its 95 % interval") < card.index("Return of an episode")
    assert "| 1 | 68 % [48, 83] |" in card
    metrics = ModelCard(card).data.eval_results
    assert [(each.metric_type, each.metric_value) for each in metrics] == [("success_rate", 0.68), ("mean_reward", -50)]


def test_the_hub_reads_the_results(model: DIPOLE) -> None:
    cells = [cell(-1, 1, -20.5), cell(0.5, 4, 3.25, 10)]
    found = ModelCard(write_card(model, "me/arm", Story("Reacher-v5", cells, licence="mit"))).data
    assert (found.license, found.library_name, found.pipeline_tag) == ("mit", "dipole-sb3", "reinforcement-learning")
    assert {"reinforcement-learning", "stable-baselines3", "dipole", "Reacher-v5"} <= set(found.tags)
    assert found.model_name == "arm"
    own, other = found.eval_results
    assert (own.task_type, own.dataset_type, own.metric_type) == ("reinforcement-learning", "Reacher-v5", "mean_reward")
    assert (own.metric_name, own.metric_value) == ("return, ω = 0.5, N = 4", 3.25)
    assert own.metric_args == {"omega": 0.5, "num_candidates": 4, "episodes": 25, "interval_95": [-6.75, 13.25]}
    assert other.metric_name == "return, ω = −1, N = 1"


def test_one_episode_has_no_interval(model: DIPOLE) -> None:
    card = write_card(model, "me/arm", Story("Reacher-v5", [cell(1, 1, -3, math.nan)]))
    assert "| 1 | −3.00 |" in card
    assert "nan" not in card.lower()


def test_a_model_without_anything_to_turn(reacher_data: Arrays) -> None:
    model = IQL("MlpPolicy", dataset=reacher_data, policy_kwargs={"net_arch": [4]}, device="cpu")
    card = write_card(model, "me/arm", Story("Reacher-v5", [row({}, -7, 1)]))
    assert "−7.00 [−8.00, −6.00]" in card
    assert "ω" not in card
    assert "In bold" not in card
    assert ModelCard(card).data.eval_results[0].metric_name == "return"


def test_without_an_environment_there_are_no_results_for_the_hub(model: DIPOLE) -> None:
    card = write_card(model, "me/arm", Story(cells=[cell(1, 1, -3)]))
    assert "model-index" not in card
    assert "| 1 | −3.00 [−4.00, −2.00] |" in card


def test_the_training_in_numbers(model: DIPOLE) -> None:
    card = write_card(model, "me/arm", Story(command="dipole train task=reacher", versions={"torch": "9.9"}))
    for line in (
        "| updates | 3 |",
        "| net_arch | [4, 8] |",
        "| seed | 7 |",
        "| learning_rate | 0.0003 |",
        "| beta | 1 |",
    ):
        assert line in card
    assert "```bash\ndipole train task=reacher\n```" in card
    assert re.search(r"With dipole-sb3 \S+, torch 9\.9\.\n", card)


def test_no_folder_of_the_machine_is_told(model: DIPOLE) -> None:
    data = {
        "command": "dipole data convert /home/ann/a.hdf5 ~/data/b",
        "source": "/home/ann/a.hdf5",
        "algorithm": "x|y",
    }
    card = write_card(model, "me/arm", Story(data=data, command="dipole train task.dataset=/home/ann/secret/a.npz"))
    assert not re.search(r"ann|secret|~", card)
    assert "`dipole data convert a.hdf5 b`" in card
    assert r"| `x\|y` |" in card


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dipole train task=ogbench/cube-single-play", "dipole train task=ogbench/cube-single-play"),
        ("--out /a/b/c.npz --x 1", "--out c.npz --x 1"),
        ("dataset=/a/b.npz", "dataset=b.npz"),
        ("see https://a.org/b/c", "see https://a.org/b/c"),
        ("1/2 and ../x/y, a / b", "1/2 and ../x/y, a / b"),
        ("~/a/b ~ann/c.npz /d", "b c.npz d"),
    ],
)
def test_folders(text: str, expected: str) -> None:
    assert without_folders(text) == expected


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        ("minari/mujoco/reacher/medium-v0", "minari/mujoco/reacher/medium-v0"),
        ("demo/reacher-tqc-10k", "demo/reacher-tqc-10k"),
        # Files that are no longer there, or not as seen from here.
        ("clients/acme/a.npz", "a.npz"),
        ("../ann/a", "a"),
        ("/home/ann/my data/a.npz", "a.npz"),
    ],
)
def test_names_of_data(dataset: str, expected: str) -> None:
    assert public_name(dataset) == expected


def test_versions_of_the_software_that_saved_a_model() -> None:
    told = "- OS: Linux of ann\n- Python: 3.11.7\n- PyTorch: 2.8.0+cpu\n- GPU Enabled: False\n- Numpy: 2.0\n"
    assert versions_in(told) == {"Python": "3.11.7", "torch": "2.8.0+cpu", "numpy": "2.0"}


@pytest.mark.parametrize(
    ("environment", "extras"),
    [("Reacher-v5", "hub,record"), ("Pendulum-v1", "hub"), ("ogbench/x", "hub,ogbench"), (None, "hub")],
)
def test_what_is_to_be_installed(model: DIPOLE, environment: str | None, extras: str) -> None:
    assert f'pip install "dipole-sb3[{extras}]"' in write_card(model, "me/arm", Story(environment))


def test_the_program_in_the_card_runs(local_hub: LocalHub, model: DIPOLE) -> None:
    model.push_to_hub("me/arm", evaluation=Found([cell(1, 1, -3)]))
    card = write_card(model, "me/arm", Story("Reacher-v5", bundles=["robot.dipole"]))
    driving, _ = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(driving, "README.md", "exec"), names)
    assert names["truncated"]
    assert names["model"].omega == 0.5
    assert "hf download me/arm robot.dipole --local-dir ." in card
    assert "policy.act(observation, omega=0.5)" in card


def test_an_evaluation_in_python_is_told(local_hub: LocalHub, model: DIPOLE) -> None:
    model.push_to_hub("me/arm", evaluation=Found([cell(1, 1, -3)]), license="mit")
    card = local_hub.files("me/arm")["README.md"].decode()
    assert "| 1 | −3.00 [−4.00, −2.00] |" in card
    assert "license: mit" in card
