"""The README and the docs: links lead somewhere, and the examples run."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import straight_roads
from commands import TINY, Command
from dipole_export import export_bundle
from dipole_policy.contract import Contract
from dipole_runtime import GuidedPolicy
from dipole_runtime.bundle import Bundle
from recordings import Arrays
from stable_baselines3 import SAC

from dipole_sb3 import DIPOLE, OfflineReplayBuffer, ReBRAC, load_dataset

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "ros2_ws/src").glob("*/README.md")),
]
SMALL: dict[str, Any] = {"dataset": "demo/reacher-tqc-10k", "policy_kwargs": {"net_arch": [16]}}

# Pages whose Python is run here, and those whose is not, with the reason.
RUN = {
    "README.md",
    *(
        f"docs/{name}.md"
        for name in (
            "commands",
            "data",
            "deployment",
            "driving-score",
            "images",
            "online",
            "recording",
            "resuming",
            "speed",
        )
    ),
    "ros2_ws/src/dipole_runtime/README.md",
}
NOT_RUN = {
    "docs/bags.md": "reads what a bag became; tests/bags does",
    "docs/hub.md": "speaks to the hub; tests/hub makes the same calls to a local one",
    "docs/driving-agent.md": "trains for minutes; tests/driving/test_agent.py makes the same calls with small networks",
    "docs/driving-scenes.md": "loads scenes that take minutes to make; tests/driving/scenes calls the same on few",
    "docs/exorl.md": "tests/datasets/exorl runs it, on a recording made there",
    "docs/ogbench.md": "reads data sets that are downloaded; tests/datasets/ogbench makes the same calls on small ones",
    "docs/plans.md": "exports an agent, which takes half a minute: tests/export/test_plans.py does what it says",
}


def python_of(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    local = [target for target in targets if not target.startswith(("http://", "https://"))]
    assert [target for target in local if not (page.parent / target).exists()] == []


CONTRACTS = [
    pytest.param(block, id=f"{page.name}-{number}")
    for page in PAGES
    for number, block in enumerate(re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    if "rate_hz:" in block and "observation:" in block
]


def test_there_are_contracts_to_copy() -> None:
    assert len(CONTRACTS) >= 2


@pytest.mark.parametrize("block", CONTRACTS)
def test_contracts_that_readers_copy_are_accepted(block: str) -> None:
    contract = Contract.from_bytes(block.encode(), "robot.yaml")
    assert contract.observation
    assert contract.actions


def test_the_example_without_an_environment_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    arrays = {name: random.normal(size=(40, 12)).astype(np.float32) for name in ("observations", "next_observations")}
    arrays |= {"actions": np.tile(np.float32([[0.2, -0.9]]), (40, 1)), "rewards": np.zeros(40, np.float32)}
    np.savez("drive.npz", **arrays, terminals=np.arange(40) % 20 == 19)
    example = python_of("docs/data.md")[-1]
    assert example.count("50_000") == 1
    names: dict[str, Any] = {}
    exec(compile(example.replace("50_000", "2"), "data.md", "exec"), names)
    low, high = names["model"].action_space.low, names["model"].action_space.high
    np.testing.assert_allclose([low, high], [[-0.3, -1.0], [0.3, 1.0]])
    assert DIPOLE.load("policy").observation_statistics


def test_examples_of_going_on_online_run() -> None:
    in_one, in_two = python_of("docs/online.md")
    names: dict[str, Any] = {}
    exec(compile(in_one.replace("3_000", "3").replace("7_000", "5"), "online.md", "exec"), names)
    assert (names["model"].num_timesteps, names["model"]._n_updates) == (5, 5)
    exec(compile(in_two.replace("3_000", "3").replace("4_000", "16"), "online.md", "exec"), names)
    assert (names["model"].num_timesteps, names["model"]._n_updates) == (3 + 16, 3 + 2)
    assert names["model"].replay_buffer.n_online == 16


def test_the_examples_of_images_run() -> None:
    example, of_stacks = python_of("docs/images.md")
    names: dict[str, Any] = {}
    exec(
        compile(
            example.replace("1_000", "2").replace("random_crop=", "batch_size=8, random_crop="), "images.md", "exec"
        ),
        names,
    )
    assert names["model"]._n_updates == 2
    assert names["action"].shape == (2,)
    exec(compile(of_stacks, "images.md", "exec"), names)
    assert names["model"].observation_space.shape == (9, 64, 64)


def test_examples_of_resuming_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one process, but with a new model: what a crash leaves is the folder."""
    begun, resumed = (
        example.replace("8_000", "3").replace("16_000", "9").replace("2_000", "4")
        for example in python_of("docs/resuming.md")
    )
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(begun, "resuming.md", "exec"), names)
    assert names["model"].num_timesteps == 9
    exec(compile(resumed, "resuming.md", "exec"), names)
    assert (names["model"].num_timesteps, names["model"]._n_updates) == (9, 9)


@pytest.mark.usefixtures("operators_read_once")
def test_examples_of_the_readme_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training, then, after what its command line does, driving."""
    training, online, driving = python_of("README.md")
    shorter = training.replace("24_000", "3").replace("progress_bar=True", "progress_bar=False")
    assert shorter != training
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(shorter, "README.md", "exec"), names)
    assert (tmp_path / "reacher.zip").is_file()
    assert names["model"].omega == 1.0
    export_bundle(names["model"], "robot.dipole")
    names["observation"] = names["model"].get_env().reset()[0]
    exec(compile(online.replace("3_000", "3").replace("7_000", "5"), "README.md", "exec"), names)
    assert names["model"].num_timesteps == 5
    exec(compile(driving, "README.md", "exec"), names)
    assert names["decision"].action.shape == (2,)
    assert names["decision"].omega == 2.0


@pytest.mark.usefixtures("operators_read_once")
def test_examples_of_deployment_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The runtime's own page among them: a pair, a policy without greediness, then one that sees."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "tests" / "runtime")
    from small_pictures import CAMERA, seeing_files

    model = DIPOLE("MlpPolicy", **SMALL).learn(1)
    names: dict[str, Any] = {"observation": model.replay_buffer.observations[0, 0]}
    export_bundle(model, "robot.dipole")
    pair, deterministic, seeing = python_of("docs/deployment.md")
    for example in (pair, *python_of("ros2_ws/src/dipole_runtime/README.md")):
        exec(compile(example, "deployment.md", "exec"), names)
        assert names["decision"].action.shape == (2,)
    export_bundle(ReBRAC("MlpPolicy", **SMALL).learn(1), "plain.dipole")
    names["policy"] = GuidedPolicy.load("plain.dipole")
    exec(compile(deterministic, "deployment.md", "exec"), names)
    assert names["decision"].omega is None
    names["policy"] = GuidedPolicy.from_bundle(Bundle.from_files(seeing_files("pair", joints=2), "robot.dipole"))
    names |= {"picture": np.zeros(CAMERA.shape, np.uint8), "joints": np.zeros(2)}
    exec(compile(seeing, "deployment.md", "exec"), names)
    assert names["decision"].omega == 0.5


def test_examples_of_your_own_data_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reacher_data: Arrays) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("drive.npz", **reacher_data)
    names: dict[str, Any] = {"env": gymnasium.make("Reacher-v5"), "episodes": [reacher_data]}
    in_memory, stored, by_url, lerobot, _ = python_of("docs/data.md")
    exec(compile(stored, "data.md", "exec"), names)
    assert names["buffer"].size() == len(reacher_data["rewards"])
    exec(compile(in_memory, "data.md", "exec"), names)
    assert names["model"].replay_buffer.size() == len(reacher_data["rewards"])
    monkeypatch.setenv("DIPOLE_CACHE", str(tmp_path / "cache"))
    exec(compile(by_url.replace("hf://datasets/me/hopper", f"file://{tmp_path}/drive.npz"), "data.md", "exec"), names)
    assert names["buffer"].size() == len(reacher_data["rewards"])
    shutil.copytree(ROOT / "tests/datasets/lerobot/sets/v3.0", "arm")
    exec(compile(lerobot, "data.md", "exec"), names)
    assert set(names["buffer"].rewards.ravel()) == {-1, 99}


def test_examples_of_recording_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    SAC("MlpPolicy", "Hopper-v5").save("sac")
    played, _, taken, pickled = python_of("docs/recording.md")  # the second reads a set that Minari downloads
    names: dict[str, Any] = {"OfflineReplayBuffer": OfflineReplayBuffer, "load_dataset": load_dataset}
    exec(compile(played.replace("100_000", "60").replace("n_envs=8", "n_envs=1"), "recording.md", "exec"), names)
    exec(compile(taken.replace("100_000", "120"), "recording.md", "exec"), names)
    assert names["dataset"].size() == 120
    names["agent"].save_replay_buffer("sac.pkl")
    exec(compile(pickled, "recording.md", "exec"), names)
    assert names["dataset"].size() == 120


def test_examples_of_profiling_and_of_many_runs_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, profiled = python_of("docs/commands.md")
    exec(compile(profiled.replace("1_000", "40"), "commands.md", "exec"), {"model": DIPOLE("MlpPolicy", **SMALL)})
    assert any(Path("profile").iterdir())
    _, together = python_of("docs/speed.md")  # the first is one line of a constructor, with an ellipsis
    together = together.replace("8_000, callbacks=[...]", "2")
    exec(compile(together, "speed.md", "exec"), names := {})  # type: ignore[var-annotated]
    assert [model.num_timesteps for model in names["models"]] == [2] * 8
    assert Path("seed3.zip").is_file()


def test_the_example_of_pruning_runs(dipole: Command) -> None:
    """In an empty directory, on fewer steps."""
    pruning, _ = python_of("docs/commands.md")
    small = [*TINY, "eval_freq=10", "eval_episodes=1", "episodes=1"]
    for words, shorter in (('"eval_freq=2000"', "*small"), ("n_trials=20", "n_trials=1")):
        assert words in pruning
        pruning = pruning.replace(words, shorter)
    names: dict[str, Any] = {"small": small}
    exec(compile(pruning, "commands.md", "exec"), names)
    (trial,) = names["study"].trials
    assert trial.state.name == "COMPLETE"
    assert list(trial.intermediate_values) == [1, 10, 20]


def test_examples_of_the_driving_score_run() -> None:
    (scored,) = python_of("docs/driving-score.md")
    plans = np.stack([[straight_roads.straight(speed) for speed in (8, 10)]] * 2)
    names: dict[str, Any] = {"surroundings": [straight_roads.scene()] * 2, "plans": plans}
    exec(compile(scored.replace("processes=8", "processes=1"), "driving-score.md", "exec"), names)
    assert names["scores"].pdms.shape == (2, 2)
    assert names["states"].shape == (2, 41, 8)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="reads pyproject.toml with tomllib")
def test_the_oldest_versions_of_the_docs_are_those_of_the_package() -> None:
    import tomllib
    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for_developers = ("dev", "docs", "messages", "ros")
    asked = project["dependencies"] + [line for name in extras if name not in for_developers for line in extras[name]]
    oldest = {}
    for requirement in map(Requirement, asked):
        for bound in requirement.specifier:
            if bound.operator == ">=" and not requirement.name.startswith("dipole"):
                assert oldest.setdefault(requirement.name, bound.version) == bound.version
    table = (ROOT / "docs/installing.md").read_text().split("|---|---|\n")[1]
    named = {
        name: row[1]
        for line in table.splitlines()
        for row in [line.strip("| ").split(" | ")]
        for name in row[0].split(", ")
    }
    assert named == oldest


def test_every_page_with_an_example_is_run() -> None:
    """A page whose Python nobody runs goes stale unseen: it has to be named with its test, or with a reason."""
    pages = {str(page.relative_to(ROOT)) for page in PAGES if "```python\n" in page.read_text()}
    assert pages == RUN | set(NOT_RUN)
