"""``dipole train task=driving/…``, ``dipole evaluate`` of what it leaves, and the demo, on a few made scenes."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from commands import Command
from dipole_export.cli import main as whole_command
from omegaconf import OmegaConf
from parts_here import in_this_process

from dipole_sb3.cli import driving, run_folder
from dipole_sb3.cli.claim import claimed
from dipole_sb3.driving import DPVLA, load_scenes
from dipole_sb3.driving.scenes import make_scenes

SMALL = [
    *["pretrain.epochs=1", "pretrain.batch_size=3", "finetune.steps=3", "finetune.group_size=3", "finetune.beta=1.0"],
    *["finetune.batch_size=3", "omegas=[-1,0,2]", "agent.verbose=0", "processes=1", "save_freq=1"],
]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of six scenes to train on and two to test on."""
    folder = tmp_path_factory.mktemp("scenes")
    make_scenes("driving/highway-mix", scenes=6, dataset_dir=folder, elsewhere=in_this_process)
    return folder


def table(file: str | Path) -> list[dict[str, str]]:
    with open(file, newline="") as opened:
        return list(csv.DictReader(opened))


def test_training_goes_on_where_it_was_and_is_evaluated(dipole: Command, scenes: Path) -> None:
    options = ["task=driving/highway-mix", f"task.dataset_dir={scenes}", *SMALL, "run_dir=run"]
    status, out, err = dipole("train", *options, "pictures=false")
    assert (status, err) == (0, "")
    rows = table("run/pdms_sweep.csv")
    assert [(row["policy"], row["omega"]) for row in rows] == [
        ("recorded", ""),
        ("imitation", ""),
        *(("DIPOLE", omega) for omega in ("-1", "0", "2")),
    ]
    assert all(0 <= float(row["pdms_low"] if row["pdms_low"] != "nan" else 0) <= 100 for row in rows)
    assert [line.split()[0] for line in out.splitlines()[1:7]] == ["policy", "recorded", "imitation", *["DIPOLE"] * 3]
    agent = DPVLA.load("run/agent")
    assert (agent.method, agent.updates, agent.pretrained_epochs) == ("dipole", 2 + 3, 1)

    status, _, err = dipole("train", *options)
    assert status == 1
    assert "run: holds a run already" in err
    with claimed(Path("run"), ""):
        status, _, err = dipole("train", "resume=run")
        assert status == 1
        assert "is writing a run there" in err

    # What is there is not learned again, what is missing is: the same numbers.
    before = Path("run/imitation/agent.json").stat().st_mtime_ns
    for file in Path("run/agent").iterdir():
        file.unlink()
    assert dipole("train", "resume=run")[0] == 0
    assert table("run/pdms_sweep.csv") == rows
    assert Path("run/imitation/agent.json").stat().st_mtime_ns == before
    assert dipole("train", *options, "pictures=false", "resume=auto")[0] == 0
    status, _, err = dipole("train", *options, "pictures=false", "resume=auto", "finetune.beta=7")
    assert status == 1
    assert "run: holds a run with finetune.beta=1.0, found finetune.beta=7; expected the options with which" in err
    assert run_folder.read_config(Path("run")).finetune.beta == 1.0
    status, _, err = dipole("train", *options, "imitation=run", "replace=true")
    assert status == 1
    assert "imitation is run, which replace=true would remove with run; give another run_dir" in err

    status, out, err = dipole("evaluate", "model=run", "omegas=[0,2]", "processes=1", "out=again", "pictures=true")
    assert (status, err) == (0, "")
    assert table("again/pdms_sweep.csv")[1:] == [rows[3], rows[4]]
    assert Path("again/pdms_sweep.png").is_file()
    assert dipole("evaluate", "model=run/imitation", f"scenes={scenes}/highway-mix", "processes=1")[0] == 0

    other = [*options[:-1], "imitation=run", "finetune.method=awr", "finetune.steps=1", "run_dir=awr", "pictures=false"]
    assert dipole("train", *other)[0] == 0
    assert [row["policy"] for row in table("awr/pdms_sweep.csv")] == ["recorded", "imitation", "AWR"]
    assert not Path("awr/imitation").exists()
    status, _, err = dipole("train", *other[:-2], "imitation=awr", "run_dir=more")
    assert status == 1
    assert "imitation is awr, an agent that is fine-tuned by awr already; expected one that is pre-trained" in err


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_a_scheduler_stops_it_and_starts_it_again(tmp_path: Path, scenes: Path) -> None:
    options = ["task=driving/highway-mix", f"task.dataset_dir={scenes}", *SMALL, "run_dir=run", "resume=auto"]
    command = [sys.executable, "-m", "dipole_sb3.cli", "train", *options, "finetune.steps=1000000"]
    manifest = tmp_path / "run/agent/agent.json"
    for start in range(2):
        before = manifest.read_bytes() if start else None
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True)
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:
            if manifest.is_file() and manifest.read_bytes() != before:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGUSR1)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 75
        done = json.loads(manifest.read_bytes())["training"]["values"]["done"]
        assert f"fine_tuning stopped after {done} of 1000000 updates; saved\nGo on with\n" in out
        assert out.endswith("  dipole train resume=run\n")


def test_nothing_of_a_replaced_demo_stays(tmp_path: Path) -> None:
    """The agents of its comparison would be taken for those of the new one, though of another imitation."""
    left = [*(f"{name}/agent.json" for name in ("imitation", "agent", "awr", "dppo")), "pdms_sweep.csv", "plans.png"]
    for name in (*left, "config.yaml", "notes/mine.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    config = OmegaConf.create({"replace": True, "imitation": None})
    with ExitStack() as opened:
        driving.claimed_folder(config, tmp_path, opened, go_on=False, named=True)
        assert [name for name in left if (tmp_path / name).exists()] == []
        assert (tmp_path / "notes/mine.txt").exists()


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["omegas=[-2]"], "omegas is [-2], expected a list of numbers of at least -1"),
        (["omegas=3"], "omegas is 3, expected a list of numbers"),
        (["finetune.method=ppo"], "finetune.method is 'ppo', expected null or one of dipole, awr, dppo"),
        (["task.dataset_dir=nowhere"], "dipole data make driving/highway-mix"),
        (["finetune.beta=-1"], "finetune.beta is -1, expected a number above 0"),
        (["finetune.learning_rate=fast"], "finetune.learning_rate is fast, expected a number above 0"),
        (["finetune.group_size=1"], "finetune.group_size is 1, expected"),
        (["pretrain.epochs=0"], "pretrain.epochs is 0, expected"),
        (["task.train=test"], "task.train and task.test are both test: pre-training would learn the recorded plans"),
        (["num_plans=0"], "num_plans is 0, expected"),
        (["imitation=nowhere"], "nowhere: no driving agent in it (agent.json); expected the folder of a run"),
        (["resume=auto"], "resume=auto needs the same folder at every start; expected run_dir=FOLDER"),
    ],
)
def test_wrong_options_are_refused_before_any_work(
    dipole: Command, scenes: Path, options: list[str], sentence: str
) -> None:
    status, _, err = dipole("train", "task=driving/highway-mix", f"task.dataset_dir={scenes}", *SMALL, *options)
    assert status == 1
    assert sentence in err
    assert err.count("\n") == 1
    assert not list(Path().rglob("agent.json"))


def test_an_option_that_there_is_not(dipole: Command) -> None:
    status, _, err = dipole("train", "task=driving/highway-mix", "finetune.bta=2")
    assert (status, err) == (1, "dipole: there is no option finetune.bta here; nearest: finetune.beta\n")
    assert dipole("train", "--help")[1].count("task=driving/NAME") == 1


def test_several_tasks_are_choices_of_one_group() -> None:
    asked = driving.of_group(["-m", "task=driving/navtest,driving/navtrain", "seed=1"])
    assert asked == ["-m", "driving=navtest,navtrain", "seed=1"]


def test_a_task_that_there_is_not(dipole: Command) -> None:
    status, _, err = dipole("train", "task=driving/moon")
    assert status == 1
    assert "driving/moon" in err


def test_the_demo_compares_three_ways_of_fine_tuning(
    dipole: Command, scenes: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["demo", "task=driving/highway-mix", f"task.dataset_dir={scenes}", *SMALL, "run_dir=demo"]
    for option, sentence in (
        ("finetune.method=awr", "finetune.method is awr, expected dipole, whose ω the demo turns"),
        ("omegas=[1]", "omegas is [1], expected at least two values to draw a line through"),
    ):
        with pytest.raises(SystemExit):
            whole_command([*arguments, option])
        assert sentence in capfd.readouterr().err
    assert not Path("demo").exists()
    assert whole_command(arguments) == 0
    out = capfd.readouterr().out
    assert [row["policy"] for row in table("demo/pdms_sweep.csv")] == [
        *["recorded", "imitation", "AWR", "DPPO"],
        *["DIPOLE"] * 3,
    ]
    for other in ("recorded", "imitation", "AWR", "DPPO"):
        assert f"against {other}, 95 % interval" in out
    assert "Scored plans: DIPOLE 18, AWR 18, DPPO 18" in out
    assert Path("demo/pdms_sweep.png").is_file()
    test = load_scenes("driving/highway-mix", "test", dataset_dir=scenes)
    assert len(test) == 2
    assert Path("demo/plans.png").is_file() or "No held-out scene got a better score" in out
