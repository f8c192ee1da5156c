"""Progress of long tasks: a bar in a terminal, lines in a log."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import tqdm

from dipole_sb3.common import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def work(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO, shown: bool = True) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.progress_bar(shown, total=3, initial=1, desc="cube", unit=" episodes") as bar:
        bar.update()
        bar.update()
    return stream.getvalue()


def test_a_log_gets_a_line_a_minute_and_one_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(tqdm.std, "time", lambda: now)
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.progress_bar(total=6, initial=1, desc="cube", unit=" episodes") as bar:
        for now in (30.0, 75.0, 80.0, 140.0, 150.0):  # noqa: B007 - the clock reads it
            bar.update()
    assert stream.getvalue().splitlines() == [
        "cube: 3 of 6 episodes, 01:15 passed, 01:52 left",
        "cube: 5 of 6 episodes, 02:20 passed, 00:34 left",
        "cube: 6 of 6 episodes, 02:30 passed, 00:00 left",
    ]


def test_what_takes_less_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert work(monkeypatch, io.StringIO()) == ""


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = work(monkeypatch, Terminal())
    assert "\r" in drawn
    assert "|" in drawn


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_nothing_where_none_is_wanted(monkeypatch: pytest.MonkeyPatch, stream: io.StringIO) -> None:
    assert work(monkeypatch, stream, shown=False) == ""


def test_commands_in_a_job_say_how_far_they_are(tmp_path: Path) -> None:
    program = """
import sys
from dipole_sb3.cli import main
from dipole_sb3.common import progress

progress._SECONDS_BETWEEN_LINES = 0
sys.exit(main())
"""
    command = ["data", "make", "ogbench/pointmaze-medium-navigate", "--episodes", "2", "--dir", str(tmp_path)]
    run = subprocess.run([sys.executable, "-c", program, *command], capture_output=True, text=True, check=True)
    said = [line.partition(",")[0] for line in run.stderr.splitlines()]
    assert said[:2] == [f"pointmaze-medium-navigate-v0: {n} of 3 episodes" for n in (0, 1)]
    assert any("compressing: 3 of 3 episodes" in line for line in run.stderr.splitlines())
