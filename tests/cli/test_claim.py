"""A run's folder has one writer: whoever else wants it gets another one, or a refusal that names the writer."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
from commands import UNTESTED, Command
from omegaconf import OmegaConf

from dipole_sb3 import DIPOLE
from dipole_sb3.cli import run_folder, texts
from dipole_sb3.cli.claim import CLAIM, FolderClaimedError, claim_free, claimed
from dipole_sb3.cli.dispatch import HydraCommand, main

pytestmark = pytest.mark.skipif(os.name == "nt", reason="locks")

PROCESSES, ROUNDS = 8, 100


def begin_runs(folder: Path, number: int, together: Barrier) -> None:
    """One process that begins a run in every round, at the same moment as the others, and ends it when all have."""
    for turn in range(ROUNDS):
        together.wait()
        with ExitStack() as opened:
            mine = claim_free(folder / str(turn), opened, run_folder.is_used)
            (mine / f"writer-{number}").touch()
            (mine / run_folder.CONFIG).touch()
            # Every other round, some have ended before others look.
            if turn % 2:
                together.wait()


def test_eight_processes_that_begin_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    together = context.Barrier(PROCESSES, timeout=60)
    processes = [context.Process(target=begin_runs, args=(tmp_path, n, together)) for n in range(PROCESSES)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * PROCESSES
    for turn in range(ROUNDS):
        names = [str(turn), *(f"{turn}-{number}" for number in range(2, PROCESSES + 1))]
        writers = [[file.name for file in (tmp_path / name).glob("writer-*")] for name in names]
        assert all(len(each) == 1 for each in writers), (turn, writers)
        assert {name for (name,) in writers} == {f"writer-{number}" for number in range(PROCESSES)}
    assert len(list(tmp_path.iterdir())) == ROUNDS * PROCESSES


HOLDER = """
import sys, time
from pathlib import Path
from dipole_sb3.cli.claim import claimed
with claimed(Path(sys.argv[1]), ""):
    (Path(sys.argv[1]) / "config.yaml").touch()
    print("claimed", flush=True)
    time.sleep(600)
"""


def test_a_claim_ends_with_its_process_however_that_ends(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "claimed\n"
        with (
            pytest.raises(FolderClaimedError, match=r"is writing a run there; wait$") as refused,
            claimed(folder, "wait"),
        ):
            pass
        note = json.loads((folder / CLAIM).read_text())
        assert note["pid"] == holder.pid
        assert str(refused.value).startswith(f"{folder}: process {holder.pid} on {note['host']}, since {note['since']}")
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
    with claimed(folder, ""):
        assert json.loads((folder / CLAIM).read_text())["pid"] == os.getpid()


def test_a_folder_in_which_nothing_was_written_is_removed(tmp_path: Path) -> None:
    with claimed(tmp_path / "new", ""):
        assert (tmp_path / "new").is_dir()
    assert not (tmp_path / "new").exists()
    with claimed(tmp_path / "used", ""):
        (tmp_path / "used" / "file").touch()
    assert sorted(path.name for path in (tmp_path / "used").iterdir()) == [CLAIM, "file"]


def test_a_damaged_note_claims_nothing(tmp_path: Path) -> None:
    (tmp_path / CLAIM).write_text("[")
    with claimed(tmp_path, ""), pytest.raises(FolderClaimedError, match=rf"process {os.getpid()} on"):  # noqa: SIM117
        with claimed(tmp_path, ""):
            pass


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("dipole_sb3.common.locks.fcntl.flock", no_locks)
    with pytest.raises(OSError, match=r"run: its file system has no locks"), claimed(tmp_path / "run", ""):
        pass


# Commands


def test_commands_of_the_same_second_get_folders_of_their_own(tmp_path: Path) -> None:
    """The clock stands still, so that all get one name."""
    program = (
        "import datetime, sys\n"
        "from dipole_sb3.cli import main\n"
        "from omegaconf import OmegaConf\n"
        "import hydra.core.utils as utils\n"
        "real = utils.setup_globals\n"
        "def still():\n"
        "    real()\n"
        "    OmegaConf.register_new_resolver('now', lambda pattern: '2026-01-31_12-00-00', replace=True)\n"
        "import hydra._internal.hydra, hydra.main\n"
        "utils.setup_globals = hydra._internal.hydra.setup_globals = still\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, "train", "task=reacher", *UNTESTED, f"algo.beta={beta}"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for beta in (1, 2)
    ]
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    folders = sorted((tmp_path / "runs/reacher").iterdir())
    assert [folder.name for folder in folders] == ["2026-01-31_12-00-00-seed0", "2026-01-31_12-00-00-seed0-2"]
    configs = [OmegaConf.load(folder / "config.yaml") for folder in folders]
    assert {config.algo.beta for config in configs} == {1, 2}
    for folder, config in zip(folders, configs, strict=True):
        assert DIPOLE.load(folder / "model.zip").beta == config.algo.beta
        assert config.run_dir == str(folder.relative_to(tmp_path))
    for output in outputs:
        assert sum(folder.name + "/" in output for folder in folders) == 1, output


def test_a_named_folder_in_use_is_refused(dipole: Command) -> None:
    for options in (
        ["run_dir=mine"],
        ["run_dir=mine", "replace=true"],
        ["-m", "hydra.sweep.dir=.", "hydra.sweep.subdir=mine"],
    ):
        with claimed(Path("mine"), ""):
            status, out, err = dipole("train", *options, "task=reacher", *UNTESTED)
            assert (status, [line for line in out.splitlines() if "HYDRA" not in line]) == (1, [])
            assert err.startswith(f"dipole: mine: process {os.getpid()} on ")
            assert err.endswith("is writing a run there; wait for it, stop it, or give another run_dir\n")
        assert not Path("mine").exists()


def test_a_run_is_resumed_once_at_a_time(dipole: Command) -> None:
    assert dipole("train", "task=reacher", *UNTESTED, "run_dir=mine", "checkpoint_freq=10")[0] == 0
    with claimed(Path("mine"), ""):
        status, _, err = dipole("train", "resume=mine", "offline_steps=30")
        assert status == 1
        assert err.endswith("is writing a run there; wait for it or stop it\n")
    assert dipole("train", "resume=mine", "offline_steps=30")[0] == 0


def test_of_several_runs_all_or_none_begin(dipole: Command) -> None:
    with claimed(Path("many/seed1"), ""):
        status, _, err = dipole("train", "task=reacher", *UNTESTED, "runs=2", "run_dir=many")
    assert (status, Path("many/seed0").exists()) == (1, False)
    assert "many/seed1: process" in err


def test_under_torchrun_one_process_learns(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--master-port=0", "--no-python"]
    command += [sys.executable, "-m", "dipole_sb3.cli", "train", "task=reacher", *UNTESTED, "run_dir=mine"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("dipole train: rank 1 of 2 has nothing to do: the command is one process") == 1
    assert DIPOLE.load(tmp_path / "mine/model.zip").num_timesteps == 20


def test_rank_0_does_not_wait_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Libraries such as Accelerate join the processes that torchrun's variables promise."""
    torchrun = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}
    for name, value in torchrun.items():
        monkeypatch.setenv(name, value)
    seen = {}
    command = HydraCommand(lambda _: seen.update(os.environ) or 0, texts.TRAIN)  # type: ignore[func-returns-value]
    assert main(["train", "task=reacher"], {"train": command}, []) == 0
    assert torchrun.keys() & seen.keys() == {"TORCHELASTIC_RUN_ID"}
