"""Reads what runs have left with experiment trackers, and small things for ``callbacks:`` and ``loggers:``."""

from __future__ import annotations

import json
import os
import signal
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter
from wandb.proto import wandb_internal_pb2 as wandb_records

_HEADER, _BLOCK, _RECORD = 7, 32768, struct.Struct("<IHB")


class OfflineRun(NamedTuple):
    """One file of W&B's offline mode."""

    id: str
    group: str
    name: str
    config: dict[str, Any]
    history: dict[int, dict[str, float]]
    """Timestep → name → number."""
    summary: dict[str, Any]
    ended: str
    """``"finished"``, ``"preempted"`` or ``"failed"``, as W&B tells them apart."""


def offline_runs(folder: Path) -> list[OfflineRun]:
    """What W&B would send, from every start of a run, in order."""
    return [_offline_run(file) for file in sorted(folder.glob("wandb/offline-run-*/*.wandb"))]


def _complete(file: Path) -> list[Any]:
    """All records; W&B's service ends its file a moment after the run."""
    deadline = time.monotonic() + 20
    while True:
        found = []
        for data in _records(file.read_bytes()):
            found.append(wandb_records.Record())
            found[-1].ParseFromString(data)
        if found and found[-1].WhichOneof("record_type") == "exit":
            return found
        assert time.monotonic() < deadline, f"{file} was not ended"
        time.sleep(0.05)


def _offline_run(file: Path) -> OfflineRun:
    run, history, summary, exit_code, preempting = None, {}, {}, 0, False
    for record in _complete(file):
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
        elif kind == "history":
            items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
            history[record.history.step.num] = {name: json.loads(value) for name, value in items.items()}
        elif kind == "summary":
            summary |= {"/".join(item.nested_key) or item.key: item.value_json for item in record.summary.update}
        elif kind == "preempting":
            preempting = True
        elif kind == "exit":
            exit_code = record.exit.exit_code
    assert run is not None
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    values = {name: json.loads(value) for name, value in summary.items()}
    ended = "finished" if exit_code == 0 else "preempted" if preempting else "failed"
    return OfflineRun(run.run_id, run.run_group, run.display_name, config, history, values, ended)


def _records(content: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format, behind W&B's header."""
    position, parts = _HEADER, b""
    while position + _RECORD.size <= len(content):
        left = _BLOCK - position % _BLOCK
        if left < _RECORD.size:
            position += left
            continue
        _, length, kind = _RECORD.unpack_from(content, position)
        position += _RECORD.size
        parts += content[position : position + length]
        position += length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


class Rows(KVWriter):
    """Writes every row as a line of JSON."""

    def __init__(self, file: str, run_folder: Path, run_group: str) -> None:
        self.file, self.run_folder = Path(file), run_folder
        (run_folder / "group.txt").write_text(run_group)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        with self.file.open("a") as opened:
            opened.write(f"{json.dumps({'step': step, **{name: float(key_values[name]) for name in key_values}})}\n")

    def close(self) -> None:
        self.file.with_suffix(".closed").touch()


class EndsAt(BaseCallback):
    """Ends training at a timestep; of one seed only, if it is given."""

    def __init__(self, timestep: int, seed: int | None = None) -> None:
        super().__init__()
        self.timestep, self.seed = timestep, seed

    def _on_step(self) -> bool:
        is_meant = self.seed is None or self.model.seed == self.seed
        return not is_meant or self.num_timesteps < self.timestep


class Refuses(BaseCallback):
    """Refuses its argument."""

    def __init__(self, number: int) -> None:
        raise ValueError(f"number is {number}, expected another")

    def _on_step(self) -> bool:
        return True


class Interrupts(BaseCallback):
    """Presses Ctrl-C at the first timestep."""

    def _on_step(self) -> bool:
        if self.num_timesteps == self.model._num_timesteps_at_start + 1:
            os.kill(os.getpid(), signal.SIGINT)
        return True


class Fails(BaseCallback):
    """Fails at the first timestep."""

    def _on_step(self) -> bool:
        raise RuntimeError("the arm is gone")


class Empties(BaseCallback):
    """Empties a file at the first timestep."""

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = Path(file)

    def _on_step(self) -> bool:
        if self.num_timesteps == 1:
            self.file.write_bytes(b"gone")
        return True
