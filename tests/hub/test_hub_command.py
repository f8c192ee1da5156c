"""``dipole hub push``: what a run has left becomes one commit, and nothing else does."""

from __future__ import annotations

import csv
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import TINY, Command
from local_hub import TOKEN, LocalHub
from omegaconf import OmegaConf

from dipole_sb3 import DIPOLE
from dipole_sb3.cli import main
from dipole_sb3.cli.command_of_run import command_of
from dipole_sb3.cli.run_folder import read_config
from dipole_sb3.evaluation.sweep import read_sweep_csv

OPTIONS = [*TINY, "pictures=true", "episodes=2", "omegas=[0,0.5]", "candidates=[4]", "algo.beta=3"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, as ``dipole train`` leaves it."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["dipole"])
        assert main(["train", "task=reacher", *OPTIONS, f"run_dir={folder}"]) == 0
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may change, in the working directory."""
    copy = tmp_path / "run"
    copy.mkdir()
    for file in trained.iterdir():
        if file.is_file():
            (copy / file.name).write_bytes(file.read_bytes())
    return copy


def card(local_hub: LocalHub) -> str:
    return local_hub.files("me/arm")["README.md"].decode()


def test_a_run_is_published(dipole: Command, local_hub: LocalHub, run: Path) -> None:
    status, out, err = dipole("hub", "push", "run", "me/arm", "--license", "mit", "--private")
    assert (status, err) == (0, "")
    commits = local_hub.repositories["me/arm"].branches["main"]
    assert len(commits) == 2
    names = ["README.md", "model.zip", "omega_sweep.csv", "omega_sweep.png"]
    assert sorted(local_hub.files("me/arm")) == [".gitattributes", *names]
    assert out == f"Published: {', '.join(names)}\n{local_hub.address}/me/arm/commit/{commits[-1][0]}\n"
    assert local_hub.repositories["me/arm"].private
    assert "license: mit\n" in card(local_hub)
    assert "![Return by setting, with 95 % intervals](omega_sweep.png)" in card(local_hub)
    assert DIPOLE.from_hub("me/arm").beta == 3
    assert str(run.parent) not in card(local_hub)


def test_the_figures_are_those_of_the_run(dipole: Command, local_hub: LocalHub, run: Path) -> None:
    dipole("hub", "push", "run", "me/arm")
    with open(run / "omega_sweep.csv", newline="") as file:
        for row in csv.DictReader(file):
            mean, low, high = (f"{float(row[f'return_{name}']):.2f}" for name in ("mean", "low", "high"))
            assert f"{mean} [{low}, {high}]".replace("-", "−") in card(local_hub)
    for fact in ("`demo/reacher-tqc-10k`", "| transitions | 10,000 |", "| updates | 20 |", "| beta | 3 |"):
        assert fact in card(local_hub)


def test_the_command_in_the_card_makes_the_same_run(
    dipole: Command, local_hub: LocalHub, trained: Path, run: Path
) -> None:
    dipole("hub", "push", "run", "me/arm")
    (line,) = [line for line in card(local_hub).splitlines() if line.startswith("dipole train ")]
    status, _, err = dipole(*shlex.split(line)[1:], "run_dir=again", "pictures=false", "algo.verbose=0")
    assert (status, err) == (0, "")
    assert read_sweep_csv(Path("again/omega_sweep.csv")) == read_sweep_csv(trained / "omega_sweep.csv")


def test_a_run_without_an_evaluation(dipole: Command, local_hub: LocalHub, run: Path) -> None:
    (run / "omega_sweep.csv").unlink()
    (run / "omega_sweep.png").unlink()
    status, out, _ = dipole("hub", "push", "run", "me/arm")
    assert status == 0
    assert out.endswith("make one and push again:\n  dipole evaluate model=run out=run\n")
    assert "What it reaches" not in card(local_hub)
    assert "`model.omega`" in card(local_hub)
    status, *_ = dipole("evaluate", "model=run", "out=run", "episodes=2", "omegas=[1]", "candidates=[1]")
    assert status == 0
    dipole("hub", "push", "run", "me/arm")
    assert "| ω | N = 1 |" in card(local_hub)


def test_pictures_and_bundles_go_along(dipole: Command, local_hub: LocalHub, run: Path) -> None:
    from dipole_export import export_bundle

    model = DIPOLE.load(run / "model.zip", device="cpu")
    export_bundle(model, run / "robot.dipole")
    export_bundle(model, run / "bundle")
    (run / "paths.png").write_bytes(b"\x89PNG\0")
    _, out, _ = dipole("hub", "push", "run", "me/arm")
    assert "paths.png, robot.dipole, bundle/\n" in out
    files = local_hub.files("me/arm")
    assert files["robot.dipole"] == (run / "robot.dipole").read_bytes()
    assert files["bundle/manifest.json"] == (run / "bundle/manifest.json").read_bytes()
    assert "(paths.png)" in card(local_hub)
    assert 'GuidedPolicy.load("robot.dipole")' in card(local_hub)


def test_a_bundle_of_another_model_is_refused(dipole: Command, local_hub: LocalHub, run: Path) -> None:
    (run / "bundle").mkdir()
    for content, message in (
        (json.dumps({"provenance": {"timesteps": 10}}), "is of a model after 10 timesteps, but run/model.zip has 20"),
        ("[]", "run/bundle: is no bundle, expected one of dipole export"),
    ):
        (run / "bundle/manifest.json").write_text(content)
        status, _, err = dipole("hub", "push", "run", "me/arm")
        assert status == 1
        assert message in err
    assert local_hub.requests == []


def test_a_bundle_of_a_model_that_was_trained_anew_is_refused(dipole: Command, local_hub: LocalHub, run: Path) -> None:
    """It has learned as long, with the same settings, and is another policy all the same."""
    from dipole_export import export_bundle

    other = DIPOLE.load(run / "model.zip", device="cpu")
    with torch.no_grad():
        next(iter(other.policy.actor.parameters())).add_(1e-6)
    export_bundle(other, run / "robot.dipole")
    status, _, err = dipole("hub", "push", "run", "me/arm")
    assert (status, err) == (
        1,
        "dipole: run/robot.dipole: has other parameters than run/model.zip; export it again, or remove it\n",
    )
    assert local_hub.requests == []


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("config.yaml", "dipole: run: no config.yaml in it; expected the folder of a training run\n"),
        ("model.zip", "dipole: run: no model.zip in it; finish it by dipole train resume=run\n"),
    ],
)
def test_what_is_no_finished_run(dipole: Command, local_hub: LocalHub, run: Path, missing: str, message: str) -> None:
    (run / missing).unlink()
    assert dipole("hub", "push", "run", "me/arm") == (1, "", message)
    assert local_hub.requests == []


@pytest.mark.parametrize("content", ["", "omega,num_candidates\n1,2\n", "omega,episodes,return_mean\n1,x,y\n"])
def test_a_damaged_table(dipole: Command, local_hub: LocalHub, run: Path, content: str) -> None:
    (run / "omega_sweep.csv").write_text(content)
    status, _, err = dipole("hub", "push", "run", "me/arm")
    assert status == 1
    assert err.startswith("dipole: run/omega_sweep.csv: ")
    assert err.count("\n") == 1
    assert local_hub.requests == []


def test_failures_of_the_hub_are_one_sentence(dipole: Command, local_hub: LocalHub, run: Path) -> None:
    local_hub.fail["POST", "/commit/"] = 500
    status, out, err = dipole("hub", "push", "run", "me/arm")
    assert (status, out) == (1, "")
    assert err.startswith("dipole: me/arm: the hub refused (500: ")
    assert err.endswith("; nothing was committed\n")
    assert err.count("\n") == 1


def test_the_command_needs_the_extra(dipole: Command, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    status, _, err = dipole("hub", "push", "run", "me/arm")
    assert status == 1
    assert "pip install 'dipole-sb3[hub]'" in err


def test_as_installed_by_the_environment_variable_of_the_hub(local_hub: LocalHub, run: Path) -> None:
    """In a process of its own, in which nothing is patched."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": local_hub.address,
        "HF_TOKEN": TOKEN,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(run.parent / "home"),
    }
    command = [sys.executable, "-m", "dipole_sb3.cli", "hub", "push", str(run), "arm"]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert finished.stdout.startswith("Published: README.md, model.zip")
    assert 'DIPOLE.from_hub("me/arm")' in card(local_hub)


# The command that makes a run


@pytest.mark.parametrize(
    "options",
    [
        ["task=reacher", "algo=dipole"],
        ["task=reacher", "algo=iql", "seed=3", "algo.gamma=0.5", "offline_steps=7"],
        ["task=ogbench/cube-single-play", "algo=fql", "task_id=4", "algo.policy_kwargs.net_arch=[8,8]"],
        ["task=exorl/walker-walk", "algo=dipole", "online_steps=10", "algo.offline_ratio=0.5"],
        ["task=custom", "algo=rebrac", "task.dataset=mine.npz", "task.env=Pendulum-v1"],
        ["task=reacher", "algo=dipole", "+algo.n_steps=3"],
    ],
)
def test_commands_are_found_again(options: list[str]) -> None:
    import hydra

    from dipole_sb3.cli.configuration import open_configuration_tree

    with open_configuration_tree():
        config = hydra.compose("train", overrides=[*options, "run_dir=/home/ann/x", "algo.verbose=0"])
    found = command_of(config)
    assert found is not None
    assert sorted(shlex.split(found)) == sorted(["dipole", "train", *options])


def test_files_of_the_machine_have_their_names_only(trained: Path) -> None:
    config = OmegaConf.merge(read_config(trained), {"task": {"dataset": str(trained / "model.zip")}})
    assert str(command_of(config)).startswith("dipole train task=reacher algo=dipole ")  # type: ignore[arg-type]
    assert " task.dataset=model.zip" in str(command_of(config))  # type: ignore[arg-type]


@pytest.mark.parametrize("change", [{"task": {"name": "mine"}}, {"algo": {"_target_": "mine.Algorithm"}}])
def test_a_run_of_somebody_elses_task_has_no_command(trained: Path, change: dict[str, dict[str, str]]) -> None:
    assert command_of(OmegaConf.merge(read_config(trained), change)) is None  # type: ignore[arg-type]
