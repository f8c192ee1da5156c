"""Rows of the log that wait for one of them: the same rows, in the same order, as if nothing had been late."""

from __future__ import annotations

import csv
from pathlib import Path

from stable_baselines3.common.logger import DISABLED, CSVOutputFormat, HumanOutputFormat, Logger

from dipole_sb3.learning.delayed_log import HeldLog, complete_log


def nothing() -> None:
    pass


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def logger(path: Path) -> Logger:
    return Logger(None, [CSVOutputFormat(str(path))])


def record_before(log: Logger) -> None:
    log.record("pending", 1)
    log.record_mean("mean", 2.0)
    log.record_mean("mean", 4.0)


def record_after(log: Logger) -> None:
    log.record_mean("mean", 7.0)
    log.record("time/total_timesteps", 8)
    log.dump(8)
    log.record("later", 9)


def test_the_outputs_become_what_they_would_have_been(tmp_path: Path) -> None:
    at_once, late = logger(tmp_path / "at_once.csv"), logger(tmp_path / "late.csv")
    record_before(at_once)
    at_once.record("eval", 5.0)
    at_once.record("time/total_timesteps", 3, exclude="tensorboard")
    at_once.dump(3)
    record_after(at_once)

    record_before(late)
    outputs = late.output_formats
    held = HeldLog(late, 3, nothing)
    record_after(late)
    assert rows(tmp_path / "late.csv") == []
    held.finish({"eval": 5.0})
    assert late.output_formats is outputs
    for one in (at_once, late):
        one.dump(10)
    assert rows(tmp_path / "late.csv") == rows(tmp_path / "at_once.csv")
    assert rows(tmp_path / "late.csv") == [
        {"pending": "1", "mean": "3.0", "eval": "5.0", "time/total_timesteps": "3"},
        {"mean": "7.0", "time/total_timesteps": "8"},
        {"later": "9"},
    ]


def test_what_waited_is_written_without_late_values_too(tmp_path: Path) -> None:
    log = logger(tmp_path / "progress.csv")
    for pending in (True, False):
        if pending:
            log.record("pending", 1)
        held = HeldLog(log, 3, nothing)
        log.record("later", 2)
        log.dump(4)
        held.finish({})
    assert rows(tmp_path / "progress.csv") == [
        {"pending": "1", "time/total_timesteps": "3"},
        {"later": "2"},
        {"later": "2"},
    ]


def test_messages_do_not_wait(tmp_path: Path) -> None:
    path = tmp_path / "log.txt"
    log = Logger(None, [HumanOutputFormat(str(path))])
    held = HeldLog(log, 1, nothing)
    log.info("a message")
    held.finish({"eval": 1.0})
    log.close()
    assert path.read_text().startswith("a message")
    assert "eval" in path.read_text()


def test_a_disabled_logger_writes_nothing(tmp_path: Path) -> None:
    log = logger(tmp_path / "progress.csv")
    log.set_level(DISABLED)
    HeldLog(log, 1, nothing).finish({"eval": 1.0})
    assert rows(tmp_path / "progress.csv") == []


def test_a_logger_that_is_closed_early_loses_nothing(tmp_path: Path) -> None:
    log = logger(tmp_path / "progress.csv")
    HeldLog(log, 1, nothing)
    log.record("later", 2)
    log.dump(2)
    log.close()
    assert rows(tmp_path / "progress.csv") == [{"later": "2"}]


def test_completing_waits_for_the_held_row_alone(tmp_path: Path) -> None:
    log = logger(tmp_path / "progress.csv")
    complete_log(log)
    held: HeldLog
    held = HeldLog(log, 1, lambda: held.finish({"eval": 1.0}))
    complete_log(log)
    assert rows(tmp_path / "progress.csv") == [{"eval": "1.0", "time/total_timesteps": "1"}]
