"""The parts of ``engine=ray`` that need no cluster: its options, how work is cut, and how files come along."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dipole_sb3.cli.engine import Engine, Task, Tell, split, taken_from
from dipole_sb3.cli.engine.cluster import room_on
from dipole_sb3.cli.engine.parcels import Parcel, Receiver, Sender
from dipole_sb3.cli.engine.worker import Office, Order, Outcome, Place, perform


def test_options_are_read_and_said_again() -> None:
    engine, rest = taken_from(["task=reacher", "engine=ray", "slots=8", "gpus_per_task=0.5", "address=auto"])
    assert (engine, rest) == (Engine(8, 0.5, 1, "auto"), ["task=reacher"])
    assert engine.options == ["engine=ray", "slots=8", "gpus_per_task=0.5", "address=auto"]
    assert taken_from(engine.options) == (engine, [])
    assert taken_from(["seed=1"]) == (None, ["seed=1"])


def test_parts_of_a_gpu_add_up_to_it() -> None:
    needed = {"CPU": 1.0}
    assert [room_on({"CPU": 16.0, "GPU": 1.0}, needed | {"GPU": 1 / parts}) for parts in range(1, 11)] == [
        *range(1, 11)
    ]
    assert room_on({"CPU": 16.0, "GPU": 1.0}, needed | {"GPU": 0.3}) == 3
    assert room_on({"CPU": 16.0}, needed | {"GPU": 0.5}) == 0


def _read_names(tell: Tell) -> None:
    tell(" ".join(sorted(path.name for path in Path("run").iterdir())), 1.0)
    Path("run/model.zip").write_text("new")


def work_elsewhere(
    monkeypatch: pytest.MonkeyPatch, directory: str | None = None
) -> tuple[Outcome, list[str], list[Parcel]]:
    """What a task does and sends on a machine that does not see the command's folders."""
    words, parcels = list[str](), list[Parcel]()
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    office = Office(lambda _, what, __: words.append(what), lambda _, parcel: parcels.append(parcel))
    task = Task("one", _read_names, [Path("run")], [Path("run")])
    order = Order("0", task, Path("run/.mark-0"), {"run/config.yaml": b"new"})
    return perform(order, Place(directory or os.getcwd(), {}, 1), office), words, parcels


def test_what_an_earlier_task_left_on_a_machine_is_of_no_run_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert work_elsewhere(monkeypatch)[0].end == "done"
    for _ in range(2):
        outcome, words, parcels = work_elsewhere(monkeypatch)
        assert outcome.end == "done"
        assert words[-1] == ".copy config.yaml"  # no model.zip
        assert parcels[-1].changed == {"run/model.zip": b"new"}


def test_the_own_run_of_a_machine_is_not_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    Path("run/config.yaml").write_text("of another")
    outcome, _, parcels = work_elsewhere(monkeypatch)
    assert outcome.end == "failed"
    assert "there are other files in it" in outcome.message
    assert not parcels
    assert [path.name for path in Path("run").iterdir()] == ["config.yaml"]
    assert Path("run/config.yaml").read_text() == "of another"


def test_a_machines_own_file_that_a_task_only_reads_is_not_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an evaluation, which writes into a folder of its own and reads a run's model."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    office = Office(lambda *_: None, lambda *_: None)

    def performed(content: bytes) -> Outcome:
        task = Task("one", lambda tell: Path("run/model.zip").read_bytes(), [Path("out")], [Path("run/model.zip")])
        order = Order("0", task, Path("out/.mark-0"), {"run/model.zip": content})
        return perform(order, Place(os.getcwd(), {}, 1), office)

    assert performed(b"first").value == b"first"
    assert performed(b"trained anew").value == b"trained anew", "a copy of before is no file of this machine"
    Path("run/.model.zip.copy").unlink()
    outcome = performed(b"of another")
    assert outcome.end == "failed"
    assert "run/model.zip: on " in outcome.message
    assert "there is another one of that name" in outcome.message
    assert Path("run/model.zip").read_bytes() == b"trained anew"
    assert performed(b"trained anew").end == "done"


def test_what_a_machine_without_the_working_directory_holds_is_gone_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    outcome, _, parcels = work_elsewhere(monkeypatch, "/nowhere/at/all")
    assert (outcome.end, parcels[-1].changed) == ("done", {"run/model.zip": b"new"})
    assert not list(tmp_path.iterdir())


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 20))
def test_groups_are_cut_so_that_every_slot_has_something_to_do(sizes: list[int], slots: int) -> None:
    groups = [[(group, member) for member in range(size)] for group, size in enumerate(sizes)]
    parts = split(groups, slots)
    assert [each for part in parts for each in part] == [each for group in groups for each in group]
    assert all(len({group for group, _ in part}) == 1 for part in parts)
    assert len(parts) == max(len(groups), min(slots, sum(sizes)))
    # Nothing could be cut to make the largest part smaller without a further slot.
    for group in range(len(sizes)):
        own = [len(part) for part in parts if part[0][0] == group]
        assert max(own) - min(own) <= 1


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.none() | st.binary(max_size=8)), max_size=12), st.data())
def test_folders_are_alike_after_every_parcel(changes: list[tuple[str, bytes | None]], data: st.DataObject) -> None:
    base = Path(tempfile.mkdtemp())
    there, here = base / "there", base / "here"
    before = os.getcwd()
    try:
        for folder in (there, here):
            (folder / "run").mkdir(parents=True)
        (here / "run/own").write_bytes(b"not from there")
        os.chdir(there)
        sender, receiver = Sender([Path("run")]), Receiver()
        for number, (name, content) in enumerate(changes):
            os.chdir(there)
            if content is None:
                Path("run", name).unlink(missing_ok=True)
            else:
                Path("run", name).write_bytes(content)
                os.utime(Path("run", name), ns=(number, number))
            if data.draw(st.booleans()):
                parcel = sender.pack()
                os.chdir(here)
                if parcel is not None:
                    if data.draw(st.booleans()):  # it was lost on its way
                        continue
                    receiver.unpack(parcel)
                    sender.sent()
                found = {path.name: path.read_bytes() for path in (here / "run").iterdir()}
                expected = {path.name: path.read_bytes() for path in (there / "run").iterdir()}
                assert found == expected | {"own": b"not from there"}
    finally:
        os.chdir(before)
        shutil.rmtree(base)
