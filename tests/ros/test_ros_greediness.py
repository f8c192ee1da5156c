"""Greediness and bundles, turned and exchanged while the node drives."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")

from dipole_runtime import GuidedPolicy  # noqa: E402
from graph import STOP, action, driving, robot, wait  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402

pytestmark = pytest.mark.usefixtures("ros")


# ---- greediness


def test_omega_has_the_bundles_range_and_its_default(bundle: Path, contract: Path):
    with driving(bundle, contract) as (_, found):
        assert found.get("omega") == 0.5
        limits = found.describe("omega").floating_point_range[0]
        assert (limits.from_value, limits.to_value) == (-1.0, 4.0)
        assert found.change("deactivate")
        assert found.change("cleanup")
        assert not found.describe("omega").floating_point_range


def test_omega_turned_by_parameter_and_by_topic(bundle: Path, contract: Path):
    with driving(bundle, contract) as (_, found):
        assert found.set(omega=3.0).successful
        wait(lambda: found.commands[-1] == action(bundle, 3.0), "the command of ω 3")
        wait(lambda: found.driven[-1][2] == 3.0, "ω beside the command")
        found.turn(-1.0)
        wait(lambda: found.commands[-1] == action(bundle, -1.0), "the command of ω −1")
        assert found.get("omega") == -1.0
        wait(lambda: len(found.audit) >= 3, "the audit")
        assert [(record["source"], record["new"]) for record in found.audit] == [
            ("configure", "0.5"),
            ("parameter", "3.0"),
            ("topic", "-1.0"),
        ]


def test_omega_out_of_range_is_rejected_and_audited(bundle: Path, contract: Path):
    with driving(bundle, contract) as (_, found):
        result = found.set(omega=4.5)
        assert not result.successful
        assert "4.5" in result.reason
        # Within rclpy's tolerance of the range, and still not in it.
        assert not found.set(omega=4.000001).successful
        found.turn(-7.0)
        found.turn(float("nan"))
        assert not found.set(omega=2).successful, "an integer is no double"
        wait(lambda: len(found.audit) >= 6, "the audit")
        assert [record["accepted"] for record in found.audit] == ["true"] + ["false"] * 5
        assert all(record["reason"] for record in found.audit)
        assert found.get("omega") == 0.5
        found.drives()
        assert found.commands[-1] == action(bundle)


def test_a_hundred_turns_while_driving_are_all_in_the_audit(bundle: Path, contract: Path):
    with driving(bundle, contract) as (node, found):
        asked = [round(-1.0 + 0.05 * turn, 2) for turn in range(100)]
        for turn, omega in enumerate(asked):
            if turn % 2:
                found.turn(omega)
                wait(lambda count=turn: len(found.audit) >= count + 2, "the topic's record")
            else:
                node.set_parameters([Parameter("omega", value=omega)])
        wait(lambda: len(found.audit) >= 101, "all records")
        records = found.audit[1:]
        assert [float(record["new"]) for record in records] == asked
        assert [int(record["number"]) for record in found.audit] == list(range(1, 102))
        assert all(after["old"] == before["new"] for before, after in pairwise(records))
        driven = [row[2] for row in found.driven]
        assert set(driven) <= set(asked) | {0.5}, "nothing in between drives"
        # Who comes later hears all of it.
        with robot(found.namespace) as late:
            wait(lambda: len(late.audit) >= 101, "the latched audit")
            assert late.audit == found.audit


def test_omega_refused_together_with_a_bundle_is_audited_too(bundle: Path, contract: Path):
    with driving(bundle, contract) as (node, found):
        together = [Parameter("omega", value=1.0), Parameter("bundle", value=str(bundle))]
        assert not node.set_parameters_atomically(together).successful
        wait(lambda: len(found.audit) >= 2, "the record")
        assert found.audit[-1]["accepted"] == "false"
        assert "expected it alone" in found.audit[-1]["reason"]
        assert found.get("omega") == 0.5


def test_slew(bundle: Path, contract: Path):
    with driving(bundle, contract, omega_slew_per_s=2.0) as (_, found):
        assert found.set(omega=1.5).successful
        wait(lambda: found.driven[-1][2] == 1.5, "the end of the slew")
        driven = [row[2] for row in found.driven]
        assert any(0.5 < omega < 1.5 for omega in driven)
        assert driven == sorted(driven)
        assert found.audit[-1]["new"] == "1.5"


def test_shadow_omegas_are_turned_live(bundle: Path, contract: Path):
    with driving(bundle, contract) as (_, found):
        assert not found.shadow
        assert found.set(shadow_omegas=[0.0, 2.0]).successful
        wait(lambda: found.shadow, "a shadow")
        assert not found.set(shadow_omegas=[5.0]).successful
        assert not found.set(shadow_omegas="much").successful
        assert found.set(shadow_omegas=[]).successful
        time.sleep(0.2)
        found.shadow.clear()
        found.drives()
        assert not found.shadow


# ---- reload


def test_reload_while_driving(bundle: Path, patient_contract: Path, make_bundle: Callable[..., Path]):
    other = make_bundle(seed=7)
    # Loading a bundle takes its time: while the node drives in this process, nothing else is loaded here.
    before, after, other_hash = action(bundle), action(other), GuidedPolicy.load(other).hash
    with driving(bundle, patient_contract) as (_, found):
        assert found.set(bundle=str(other)).successful
        wait(lambda: found.commands[-1] == after, "the other bundle's command")
        wait(lambda: found.model[-1]["hash"] == other_hash, "its model info")
        assert found.get("bundle") == str(other)
        wait(lambda: len(found.driven) > 20, "some more decisions")
        # Not one command missed or mixed: every one is of either bundle, first of one, then of the other.
        driven = [row[4:] for row in found.driven]
        assert all(command in (before, after) for command in driven)
        switch = driven.index(after)
        assert driven == [before] * switch + [after] * (len(driven) - switch)
        numbers = [int(row[0]) for row in found.driven]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert found.diagnostics[-1][1]["deadline_misses"] == "0"
        assert STOP not in found.commands[numbers[0] :]


def test_reload_of_a_bundle_that_was_replaced(tmp_path: Path, bundle: Path, contract: Path, make_bundle: Any):
    place = tmp_path / "bundle"
    place.symlink_to(bundle, target_is_directory=True)
    with driving(place, contract, bundle_root=str(bundle.parent)) as (_, found):
        place.unlink()
        other = make_bundle(seed=7)
        place.symlink_to(other, target_is_directory=True)
        answer = found.trigger("reload")
        assert answer.success
        assert answer.message == GuidedPolicy.load(other).hash
        wait(lambda: found.commands[-1] == action(other), "the other bundle's command")


def test_a_bad_bundle_leaves_the_old_one_driving(
    bundle: Path, patient_contract: Path, make_bundle: Callable[..., Path], tmp_path: Path
):
    with driving(bundle, patient_contract) as (_, found):
        damaged = bundle.parent / f"damaged_{tmp_path.name}"
        damaged.mkdir()
        for file in bundle.iterdir():
            (damaged / file.name).write_bytes(file.read_bytes())
        (damaged / "critic.onnx").write_bytes(b"nonsense")
        for path, reason in (
            (damaged, "critic.onnx"),
            (bundle.parent / "none", "cannot load"),
            (make_bundle(observation=4), "expected the bundle's 4"),
            (tmp_path / "elsewhere", "is outside of"),
            ("/etc/passwd", "is outside of"),
        ):
            result = found.set(bundle=str(path))
            assert not result.successful
            assert reason in result.reason
            assert found.get("bundle") == str(bundle)
            assert reason in found.told("reloading failed")["problem"]
        found.drives()
        assert found.commands[-1] == action(bundle)
        numbers = [int(row[0]) for row in found.driven]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert found.trigger("reload").success


def test_a_bundle_whose_range_has_no_place_for_omega(bundle: Path, contract: Path, make_bundle: Callable[..., Path]):
    from dipole_runtime.manifest import OmegaRange

    narrow = make_bundle(seed=3, omega=OmegaRange(0.5, 0.0, 1.0))
    with driving(bundle, contract) as (_, found):
        assert found.set(omega=3.0).successful
        result = found.set(bundle=str(narrow))
        assert not result.successful
        assert "omega is 3.0, expected 0.0 to 1.0" in result.reason
        assert found.set(omega=1.0).successful
        assert found.set(bundle=str(narrow)).successful
        assert found.describe("omega").floating_point_range[0].to_value == 1.0
        assert not found.set(omega=2.0).successful
        found.drives()


def test_parameters_that_may_not_change_now(bundle: Path, contract: Path):
    with driving(bundle, contract) as (_, found):
        for name, value in (
            ("contract", "/other.yaml"),
            ("bundle_root", "/"),
            ("recover_after_s", 9.0),
            ("use_sim_time", True),
            ("threads", 2),
        ):
            result = found.set(**{name: value})
            assert not result.successful, name
            assert result.reason, name
        found.drives()
