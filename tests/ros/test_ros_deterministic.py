"""A policy without ω drives: whoever turns it is told so, and bundles of both forms take over from each other."""

from __future__ import annotations

import math
import time
from itertools import pairwise
from pathlib import Path

import pytest

rclpy = pytest.importorskip("rclpy", reason="rclpy is not installed: see the extra 'ros' or your ROS distribution")

from dipole_policy.omega import NO_OMEGA  # noqa: E402
from dipole_runtime import GuidedPolicy  # noqa: E402
from graph import STOP, action, driving, pair, wait  # noqa: E402

pytestmark = pytest.mark.usefixtures("ros")


def test_it_drives_and_says_what_it_is(deterministic_bundle: Path, contract: Path):
    with driving(deterministic_bundle, contract, deterministic=False) as (_, found):
        wait(lambda: found.commands[-1] == action(deterministic_bundle), "its command")
        number, _, omega, q, *command = wait(lambda: found.driven, "a report")[-1]
        assert number >= 1
        assert math.isnan(omega)
        assert math.isfinite(q)
        assert command == action(deterministic_bundle)
        model = wait(lambda: found.model, "the model's info")[-1]
        assert model["policy"] == "deterministic"
        assert not [key for key in model if key.startswith("omega") or key in ("num_candidates", "flow_steps")]
        assert found.told("driving")["omega"] == "none"
        assert math.isnan(found.get("omega"))
        described = found.describe("omega")
        assert not described.floating_point_range
        assert NO_OMEGA in described.description
        assert not found.audit
        assert not found.shadow


def test_turning_it_is_refused_with_the_reason(deterministic_bundle: Path, contract: Path):
    with driving(deterministic_bundle, contract) as (_, found):
        for value in (2.0, math.nan):
            result = found.set(omega=value)
            assert not result.successful
            assert NO_OMEGA in result.reason
        found.turn(1.0)
        wait(lambda: len(found.audit) >= 3, "the audit")
        assert [(record["source"], record["old"], record["accepted"]) for record in found.audit] == [
            ("parameter", "nan", "false"),
            ("parameter", "nan", "false"),
            ("topic", "nan", "false"),
        ]
        assert all(NO_OMEGA in record["reason"] for record in found.audit)
        result = found.set(shadow_omegas=[0.0, 1.0])
        assert not result.successful
        assert NO_OMEGA in result.reason
        assert found.set(shadow_omegas=[]).successful
        assert found.set(omega_slew_per_s=1.0).successful
        assert math.isnan(found.get("omega"))
        found.drives()
        assert found.commands[-1] == action(deterministic_bundle)


@pytest.mark.parametrize(
    ("parameters", "remedy", "words"),
    [
        ({"omega": 0.5}, {"omega": math.nan}, "omega is 0.5, expected none"),
        ({"shadow_omegas": [1.0]}, {"shadow_omegas": []}, "shadow_omegas: omega is 1.0, expected none"),
        ({"num_candidates": 8}, {"num_candidates": 0}, "num_candidates is 8, expected 0 or 1"),
    ],
    ids=str,
)
def test_what_is_asked_of_it_at_the_start_and_it_does_not_have(
    deterministic_bundle: Path, contract: Path, parameters: dict, remedy: dict, words: str
):
    with pair(deterministic_bundle, contract, **parameters) as (_, found):
        assert not found.change("configure")
        assert words in found.told("configuring failed")["problem"]
        assert found.set(**remedy).successful
        assert found.change("configure")
        assert found.change("activate")
        found.drives()


def test_reload_from_a_pair_and_back_while_driving(bundle: Path, patient_contract: Path, deterministic_bundle: Path):
    # Loading a bundle takes its time: while the node drives in this process, nothing else is loaded here.
    guided, plain, default = action(bundle, 3.0), action(deterministic_bundle), action(bundle)
    plain_hash = GuidedPolicy.load(deterministic_bundle).hash
    with driving(bundle, patient_contract) as (_, found):
        assert found.set(omega=3.0).successful
        wait(lambda: found.driven[-1][4:] == guided, "the command of ω 3")
        assert found.set(bundle=str(deterministic_bundle)).successful
        wait(lambda: found.driven[-1][4:] == plain, "the deterministic command")
        wait(lambda: found.model[-1]["hash"] == plain_hash, "its model info")
        assert math.isnan(found.get("omega"))
        assert not found.describe("omega").floating_point_range
        assert NO_OMEGA in found.set(omega=3.0).reason
        found.turn(3.0)
        wait(lambda: len(found.audit) >= 5, "the refusals")
        assert found.set(bundle=str(bundle)).successful
        wait(lambda: found.driven[-1][4:] == default, "the command of the default ω")
        assert found.get("omega") == 0.5
        assert found.describe("omega").floating_point_range[0].to_value == 4.0
        assert found.set(omega=3.0).successful
        wait(lambda: found.driven[-1][4:] == guided, "the command of ω 3 again")
        wait(lambda: len(found.audit) >= 7, "the audit")
        assert [(record["source"], record["old"], record["new"], record["accepted"]) for record in found.audit] == [
            ("configure", "0.5", "0.5", "true"),
            ("parameter", "0.5", "3.0", "true"),
            ("reload", "3.0", "nan", "true"),
            ("parameter", "nan", "3.0", "false"),
            ("topic", "nan", "3.0", "false"),
            ("reload", "nan", "0.5", "true"),
            ("parameter", "0.5", "3.0", "true"),
        ]
        driven = [row[4:] for row in found.driven]
        kinds = [driven[0], *(after for before, after in pairwise(driven) if after != before)]
        assert kinds == [default, guided, plain, default, guided], "nothing in between drives"
        numbers = [int(row[0]) for row in found.driven]
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
        assert all(math.isnan(row[2]) == (row[4:] == plain) for row in found.driven)
        assert found.diagnostics[-1][1]["deadline_misses"] == "0"
        assert STOP not in found.commands[numbers[0] :]


def test_reload_by_service(tmp_path: Path, bundle: Path, deterministic_bundle: Path, contract: Path):
    place = tmp_path / "bundle"
    place.symlink_to(bundle, target_is_directory=True)
    with driving(place, contract, bundle_root=str(bundle.parent)) as (_, found):
        for target in (deterministic_bundle, bundle):
            place.unlink()
            place.symlink_to(target, target_is_directory=True)
            assert found.trigger("reload").success
            wait(lambda of=target: found.commands[-1] == action(of), "the other bundle's command")


def test_a_shadow_in_force_keeps_the_pair(bundle: Path, contract: Path, deterministic_bundle: Path):
    with driving(bundle, contract, shadow_omegas=[2.0]) as (_, found):
        wait(lambda: found.shadow, "a shadow")
        result = found.set(bundle=str(deterministic_bundle))
        assert not result.successful
        assert "shadow_omegas: omega is 2.0, expected none" in result.reason
        assert (found.get("bundle"), found.get("omega")) == (str(bundle), 0.5)
        found.drives()
        assert found.commands[-1] == action(bundle)
        assert found.set(shadow_omegas=[]).successful
        assert found.set(bundle=str(deterministic_bundle)).successful
        wait(lambda: found.commands[-1] == action(deterministic_bundle), "the deterministic command")
        time.sleep(0.2)
        found.shadow.clear()
        found.drives()
        assert not found.shadow


def test_configured_anew_with_the_other_form(bundle: Path, contract: Path, deterministic_bundle: Path):
    """What the last session left in omega is not asked of the next policy; what somebody sets then is."""
    with driving(bundle, contract) as (_, found):
        assert found.set(omega=3.0).successful
        for transition in ("deactivate", "cleanup"):
            assert found.change(transition)
        assert found.set(bundle=str(deterministic_bundle)).successful
        assert found.change("configure")
        assert math.isnan(found.get("omega"))
        assert found.change("cleanup")
        assert found.set(bundle=str(bundle)).successful
        assert found.change("configure")
        assert found.get("omega") == 0.5
        assert found.change("cleanup")
        assert found.set(bundle=str(deterministic_bundle)).successful
        refused = found.set(omega=0.5)
        assert not refused.successful, "the same as was left, but now it is asked for"
        assert NO_OMEGA in refused.reason
        assert found.change("configure")
