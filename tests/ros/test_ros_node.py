"""The managed node on the real rclpy, over real DDS: its lifecycle, and what it says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")

from dipole_runtime import GuidedPolicy  # noqa: E402
from graph import STOP, action, driving, pair, wait  # noqa: E402

pytestmark = pytest.mark.usefixtures("ros")


# ---- lifecycle


def test_configure_activate_drive_deactivate(bundle: Path, contract: Path):
    with pair(bundle, contract) as (_, found):
        assert found.state() == "unconfigured"
        assert found.silent(0.2) == []
        assert found.change("configure")
        assert found.silent(0.3) == [], "an inactive node commands nothing"
        assert wait(lambda: found.model, "model info")[0]["hash"] == GuidedPolicy.load(bundle).hash
        assert found.change("activate")
        found.drives()
        wait(lambda: len(found.driven) >= 5, "five decisions")
        assert found.change("deactivate")
        assert found.silent() == []
        assert found.commands[-1] == STOP
        expected = action(bundle)
        assert all(command in (expected, STOP) for command in found.commands)
        number, _, omega, _, *command = found.driven[-1]
        assert (omega, command) == (0.5, expected)
        assert found.commands[int(number) - 1] == expected
        # And once more.
        assert found.change("activate")
        found.drives()
        assert found.change("deactivate")
        assert found.change("cleanup")
        assert found.state() == "unconfigured"
        assert found.commands[-1] == STOP


def test_shutdown_while_driving_ends_with_the_stop(bundle: Path, contract: Path):
    with driving(bundle, contract) as (_, found):
        assert found.change("active_shutdown")
        assert found.silent() == []
        assert found.commands[-1] == STOP
        assert found.state() == "finalized"


def test_a_transition_that_does_not_exist_changes_nothing(bundle: Path, contract: Path):
    with driving(bundle, contract) as (_, found):
        assert not found.change("configure")
        found.drives()
        assert found.state() == "active"


def test_diagnostics_latency_and_model(bundle: Path, patient_contract: Path):
    with driving(bundle, patient_contract) as (_, found):
        values = found.told("driving")
        assert values["lifecycle"] == "active"
        assert values["omega"] == "0.5"
        assert values["bundle_hash"] == GuidedPolicy.load(bundle).hash
        assert values["deadline_misses"] == "0"
        assert {
            "inference_mean_s",
            "inference_p99_s",
            "period_jitter_max_s",
            f"age_s.{found.namespace}/speed",
            "cause",
        } <= values.keys()
        inference, command, _ = wait(lambda: found.latency, "latency")[-1]
        assert 0.0 < inference <= command
        model = found.model[-1]
        assert model["action.names"] == "joint_0, joint_1"
        assert (model["omega.low"], model["omega.high"]) == ("-1.0", "4.0")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"bundle": "/nowhere/at/all"}, "cannot load /nowhere/at/all"),
        ({"bundle": ""}, "parameter bundle is empty"),
        ({"contract": "/nowhere.yaml"}, "contract /nowhere.yaml cannot be read"),
        ({"omega": 9.0}, "parameter omega is 9.0, expected -1.0 to 4.0"),
        ({"omega": 1}, "parameter omega: "),
        ({"shadow_omegas": [9.0]}, "parameter shadow_omegas: omega is 9.0"),
        ({"recover_after_s": -1.0}, "parameter recover_after_s: "),
        ({"recover_after": 1.0}, "parameter recover_after is unknown"),
        ({"threads": "two"}, "parameter threads: "),
    ],
)
def test_what_is_wrong_fails_configure_and_the_node_stays(
    bundle: Path, contract: Path, parameters: dict[str, Any], message: str
):
    with pair(bundle, contract, **parameters) as (_, found):
        assert not found.change("configure")
        assert found.state() == "unconfigured"
        values = found.told("configuring failed")
        assert message in values["problem"]


def test_after_a_failure_the_node_can_be_configured(bundle: Path, contract: Path, tmp_path: Path):
    good = contract.read_text()
    contract.write_text(good.replace("[elbow, wrist]", "[elbow]"))
    with pair(tmp_path / "none", contract, threads="two") as (_, found):
        assert not found.change("configure")
        assert found.set(threads=1).successful
        assert found.set(bundle=str(bundle)).successful
        assert not found.change("configure")
        assert "1 + 1 = 2 elements, expected the bundle's 3" in found.told("1 + 1")["problem"]
        contract.write_text(good)
        assert found.change("configure")
        assert found.change("activate")
        found.drives()
        wait(lambda: "problem" not in found.diagnostics[-1][1], "the problem's end")
