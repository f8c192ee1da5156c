"""Tables and curves over runs, from the folders that every command leaves."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest
from commands import TINY, UNTESTED, Command
from hydra import compose, initialize_config_dir

from dipole_sb3.cli import main, over_runs, run_folder
from dipole_sb3.cli.configuration import config_folder
from dipole_sb3.cli.found_runs import common_folder, read_runs, run_folders
from dipole_sb3.common.intervals import mean_interval
from dipole_sb3.plots import benchmark as benchmark_plots

EVALUATED = [*TINY, "log_interval=1", "checkpoint_minutes=0", "episodes=2", "omegas=[0,2]", "candidates=[1]"]
SUITE = """\
about: Two algorithms on a small arm.
tasks:
  - {task: reacher}
algos: [dipole, iql]
seeds: 2
options:
  all: [offline_steps=20, algo.batch_size=16, 'algo.policy_kwargs.net_arch=[16,16]', episodes=2, log_interval=1]
"""
LAYOUTS = {
    "one": ["train", "task=reacher", *EVALUATED, "run_dir=one"],
    "many": ["train", "task=reacher", *EVALUATED, "runs=2", "run_dir=many"],
    "sweep": ["train", "-m", "task=reacher", *EVALUATED, "seed=0,1", "hydra.sweep.dir=sweep"],
    "nested": ["train", "-m", "task=reacher", *EVALUATED, "runs=2", "algo.beta=1,3", "hydra.sweep.dir=nested"],
    # As under a launcher of Hydra that gives every job a process of its own.
    "jobs": [
        *("train", "-m", "task=reacher", *EVALUATED, "seed=0,1", "hydra.sweep.dir=jobs"),
        "+hydra.job.env_set.OF_THE_JOB=yes",
    ],
    "benchmark": ["benchmark", "suite=suite.yaml", "out=benchmark"],
}
COUNTS = {"one": 1, "many": 2, "sweep": 2, "nested": 4, "jobs": 2, "benchmark": 4}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every command has been run."""
    folder = tmp_path_factory.mktemp("written")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(benchmark_plots, "REPETITIONS", 20)  # nobody looks at the benchmark's pictures here
        Path("suite.yaml").write_text(SUITE)
        for arguments in LAYOUTS.values():
            assert main(arguments) == 0
    return folder


@pytest.fixture
def runs(written: Path, dipole: Command, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folder to work in."""
    shutil.copytree(written, "runs")
    monkeypatch.chdir("runs")
    return Path()


def table(path: Path | str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def returns(folder: Path | str) -> dict[str, float]:
    return {row["omega"]: float(row["return_mean"]) for row in table(Path(folder, "omega_sweep.csv"))}


@pytest.mark.parametrize("name", LAYOUTS)
def test_runs_are_found_in_the_folders_of_every_command(dipole: Command, runs: Path, name: str) -> None:
    found = run_folders([Path(name)])
    assert len(found) == COUNTS[name]
    assert found == sorted(path.parent for path in Path(name).rglob("model.zip"))
    for command in ("curves", "summary"):
        status, out, err = dipole(command, name)
        assert (status, err) == (0, "")
    folder = common_folder(found)
    assert f"The learning curves are in {folder}/curves.png\n" in out
    assert (folder / "curves.png").is_file()


@pytest.mark.parametrize("name", ["many", "sweep", "nested"])
def test_the_table_is_the_one_that_training_ends_with(dipole: Command, runs: Path, name: str) -> None:
    before = Path(name, "omega_sweep_over_runs.csv").read_bytes()
    status, _, err = dipole("summary", name, "--out", "again")
    assert (status, err) == (0, "")
    if name == "nested":
        # The command line said beta=1, the configurations say 1.0 where that is its type.
        assert Path("again/omega_sweep_over_runs.csv").read_bytes().replace(b".0,2,", b",2,") == before.replace(
            b".0,2,", b",2,"
        )
    else:
        assert Path("again/omega_sweep_over_runs.csv").read_bytes() == before
    assert Path("again/omega_sweep_over_runs.png").is_file()


def test_seeds_of_several_commands_are_one_setting(dipole: Command, runs: Path) -> None:
    """Two of one command, one of another, on a machine with other cores."""
    arguments = ["train", "task=reacher", *EVALUATED, "seed=7", "processes=1", "algo.device=cpu", "run_dir=elsewhere"]
    assert dipole(*arguments)[0] == 0
    status, out, err = dipole("summary", "many", "elsewhere", "--out", "tables")
    assert (status, err) == (0, "")
    assert "Return, mean over 3 runs with its 95 % interval, 2 episodes a cell and run\n" in out
    rows = table("tables/omega_sweep_over_runs.csv")
    assert [(row["runs"], row["omega"]) for row in rows] == [("3", "0.0"), ("3", "2.0")]
    of_runs = [returns(folder) for folder in ("many/seed0", "many/seed1", "elsewhere")]
    for row in rows:
        expected = mean_interval([each[row["omega"]] for each in of_runs])
        found = [float(row[f"return_{bound}"]) for bound in ("mean", "low", "high")]
        assert found == pytest.approx(list(expected))


def test_other_algorithms_have_a_table_each(dipole: Command, runs: Path) -> None:
    status, out, err = dipole("summary", "benchmark", "--out", "tables")
    assert (status, err) == (0, "")
    assert "DIPOLE on reacher\n\nReturn" in out
    assert "IQL on reacher\n\nReturn" in out
    of_dipole = table("tables/omega_sweep_over_runs.csv")
    assert {(row["task"], row["algorithm"], row["runs"]) for row in of_dipole} == {("reacher", "DIPOLE", "2")}
    (others,) = set(Path("tables").glob("*.csv")) - {Path("tables/omega_sweep_over_runs.csv")}
    assert {row["algorithm"] for row in table(others)} == {"IQL"}


def test_algorithms_of_one_sweep_have_a_table_each(dipole: Command, tmp_path: Path) -> None:
    options = [option for option in EVALUATED if not option.startswith(("omegas", "candidates"))]
    status, out, err = dipole("train", "-m", "task=reacher", *options, "algo=dipole,iql", "hydra.sweep.dir=sweep")
    assert (status, err) == (0, "")
    assert "IQL on reacher\n\nReturn" in out
    assert len(list(Path("sweep").glob("*_over_runs.csv"))) == 2


def test_what_is_not_in_the_table_is_named(dipole: Command, runs: Path) -> None:
    shutil.rmtree("nested")
    shutil.rmtree("benchmark")
    shutil.copytree("many/seed0", "copy")
    dipole("train", "task=reacher", *UNTESTED, "run_dir=unevaluated")
    Path("jobs/0-reacher-seed0/omega_sweep.csv").unlink()
    Path("jobs/1-reacher-seed1/model.zip").unlink()
    shutil.copytree("one", "earlier")
    config = Path("earlier/config.yaml")
    config.write_text(config.read_text().replace("online_steps: 0\n", ""))
    Path("one/omega_sweep.csv").write_text("something else\n1\n")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        driving = compose("driving", ["driving=highway-mix", "run_dir=driving"])
    Path("driving").mkdir()
    run_folder.write_config(Path("driving"), driving)
    status, out, err = dipole("summary", ".")
    assert (status, err) == (0, "")
    lines = out.partition("Not in the table:\n")[2].split("\n\n")[0].splitlines()
    assert "  driving: a run of a driving agent, whose table is in its folder" in lines
    assert "  unevaluated: not evaluated, as it was asked for (episodes=0, or no environment)" in lines
    job = "jobs/0-reacher-seed0"
    assert f"  {job}: not evaluated yet; `dipole train resume={job}` does it" in lines
    assert "  jobs/1-reacher-seed1: not finished, 20 of 20 timesteps logged" in lines
    assert any(line.startswith("  one/omega_sweep.csv: is no table of an evaluation") for line in lines)
    assert "  earlier: its config.yaml has no online_steps; it is of another version" in lines
    # The copy came first.
    assert "  many/seed0: the same run as copy, with the seed 0" in lines
    assert "  sweep/1-reacher-seed1: the same run as many/seed1, with the seed 1" in lines
    assert len(lines) == 9
    assert [row["runs"] for row in table("omega_sweep_over_runs.csv")] == ["2", "2"]


def test_a_restarted_sweep_ends_with_the_table_over_all_its_runs(dipole: Command, runs: Path) -> None:
    before = Path("sweep/omega_sweep_over_runs.csv").read_bytes()
    Path("sweep/omega_sweep_over_runs.csv").unlink()
    Path("sweep/1-reacher-seed1/omega_sweep.csv").unlink()  # killed in its evaluation
    status, out, err = dipole(*LAYOUTS["sweep"], "resume=auto")
    assert (status, err) == (0, "")
    assert "sweep/0-reacher-seed0: is finished\n" in out
    assert "mean over 2 runs" in out
    found, expected = table("sweep/omega_sweep_over_runs.csv"), before.decode().splitlines()
    assert [row["runs"] for row in found] == ["2", "2"]
    assert len(expected) == 1 + len(found)


def test_a_run_that_learns_longer_is_not_in_the_table(dipole: Command, runs: Path) -> None:
    config = Path("many/seed0/config.yaml")
    config.write_text(config.read_text().replace("offline_steps: 20", "offline_steps: 90"))
    status, out, _ = dipole("summary", "many")
    assert status == 0
    assert "  many/seed0: not finished, 20 of 90 timesteps logged\n" in out


def test_a_table_is_read_as_it_was_written(runs: Path) -> None:
    (run,), _ = read_runs([Path("one")])
    rows = over_runs.read_table(run)
    assert [list(row.setting.items()) for row in rows] == [
        [("omega", omega), ("num_candidates", 1)] for omega in (0.0, 2.0)
    ]
    assert all(isinstance(row.setting["num_candidates"], int) for row in rows)
    text = Path("one/omega_sweep.csv").read_text()
    for row in rows:
        assert f"{row.return_mean!r},{row.return_low!r},{row.return_high!r}" in text


@pytest.mark.parametrize("command", ["summary", "curves"])
def test_no_run_is_told_in_one_sentence(dipole: Command, tmp_path: Path, command: str) -> None:
    Path("empty").mkdir()
    Path("other").mkdir()
    Path("other/config.yaml").write_text("site: other\n")
    for folder, problem in (("empty", "no run"), ("other", "no run"), ("nowhere", "no such folder")):
        status, out, err = dipole(command, folder)
        assert (status, out) == (1, "")
        assert err == (
            f"dipole: {folder}: {problem}; expected the folder of a run, or one that holds runs, which have a "
            "config.yaml\n"
        )


def test_curves_of_several_settings(dipole: Command, runs: Path) -> None:
    """Of another length, too, and of an absolute path."""
    dipole("train", "task=reacher", *UNTESTED, "log_interval=1", "offline_steps=30", "run_dir=longer")
    Path("empty").mkdir()
    run_folder.write_config(Path("empty"), run_folder.read_config(Path("longer")))
    status, out, err = dipole("curves", "nested", str(Path("longer").absolute()), "empty", "--out", "all.png")
    assert (status, err) == (0, "")
    assert "empty: has no row of training statistics in its progress.csv yet\n" in out
    assert "The picture of 5 runs is in all.png\n" in out
    assert Path("all.png").is_file()


# Several models


def test_several_models_play_the_same_episodes(dipole: Command, runs: Path) -> None:
    options = ["episodes=3", "omegas=[0,1]", "candidates=[1]", "pictures=false"]
    status, out, err = dipole("evaluate", "model=many", "model=sweep/0*", *options)
    assert (status, err) == (0, "")
    folders = [Path(line.strip()) for line in out.splitlines() if "/evaluated/" in line and line.startswith("  ")]
    runs_of = ["many/seed0", "many/seed1", "sweep/0-reacher-seed0"]
    assert [str(folder.parents[1]) for folder in folders] == runs_of
    assert returns(folders[0]) == pytest.approx(returns(folders[2]), rel=1e-3)  # the same seed
    for model, folder in zip(runs_of, folders, strict=True):
        dipole("evaluate", f"model={model}", *options, "out=alone")
        assert returns("alone") == pytest.approx(returns(folder), rel=1e-3)
    (path,) = [line for line in out.splitlines() if line.startswith("The table over models is in ")]
    rows = table(path.rpartition(" ")[2])
    assert [(row["runs"], row["omega"], row["episodes"]) for row in rows] == [("3", "0.0", "3"), ("3", "1.0", "3")]
    means = [returns(folder)["1.0"] for folder in folders]
    assert float(rows[1]["return_mean"]) == pytest.approx(sum(means) / 3)


def test_models_of_other_algorithms_and_of_no_run(dipole: Command, runs: Path) -> None:
    shutil.copy("one/model.zip", "alone.zip")
    models = ["model=benchmark/reacher/*/seed0", "model=alone.zip"]
    status, out, err = dipole("evaluate", *models, "env=Reacher-v5", "episodes=2", "pictures=false", "out=out")
    assert (status, err) == (0, "")
    assert [line for line in out.splitlines() if " on " in line] == [
        "DIPOLE on reacher",
        "IQL on reacher",
        "DIPOLE on Reacher-v5",
    ]
    for folder in ("benchmark/reacher/dipole/seed0", "benchmark/reacher/iql/seed0", "alone"):
        assert len(list(Path("out", folder).glob("*.csv"))) == 1, folder


def test_checkpoints_of_one_run_are_settings(dipole: Command, runs: Path) -> None:
    shutil.copy("one/model.zip", "one/other.zip")
    options = ["episodes=2", "omegas=[0]", "candidates=[1]", "pictures=false", "out=out"]
    status, _, err = dipole("evaluate", "model=one", "model=one/other.zip", *options)
    assert (status, err) == (0, "")
    rows = table("out/omega_sweep_over_runs.csv")
    assert [(row["model"], row["runs"]) for row in rows] == [("one/model.zip", "1"), ("one/other.zip", "1")]


def test_a_model_that_is_not_there_refuses_all(dipole: Command, runs: Path) -> None:
    status, out, err = dipole("evaluate", "model=one", "model=nowhere*", "episodes=2")
    assert (status, out) == (1, "")
    assert "nowhere*: no such file" in err
    assert not Path("one/evaluated").exists()
