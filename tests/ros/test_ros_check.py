"""``dipole_policy check`` on the message types that are installed, or on none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from dipole_policy import cli
from dipole_policy.errors import ContractError
from robots import CONTRACT, describe

CONTRACTS = Path(__file__).resolve().parents[2] / "ros2_ws/src/dipole_policy/contracts"


@pytest.fixture(autouse=True)
def types(monkeypatch: pytest.MonkeyPatch) -> None:
    """Descriptions that are there whatever is installed."""

    def not_installed(name: str) -> type:
        raise ContractError(f"message type {name} cannot be loaded")

    monkeypatch.setattr(cli, "describe_installed", describe)
    monkeypatch.setattr(cli, "message_class", not_installed)


def test_what_fits(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    contract = tmp_path / "contract.yaml"
    contract.write_text(CONTRACT)
    assert cli.main(["check", str(contract), "--bundle", str(bundle)]) == 0
    output = capsys.readouterr().out
    assert "/joint_states sensor_msgs/msg/JointState position, 2 elements: observation_0, observation_1" in output
    assert "joint_1: -2 to 2" in output
    assert "omega -1 to 4, default 0.5" in output
    assert output.strip().endswith("fits")
    assert cli.main(["check", str(contract)]) == 0
    assert "no bundle given" in capsys.readouterr().out


def test_a_policy_without_omega(deterministic_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    contract = tmp_path / "contract.yaml"
    contract.write_text(CONTRACT)
    assert cli.main(["check", str(contract), "--bundle", str(deterministic_bundle)]) == 0
    output = capsys.readouterr().out
    assert "joint_1: -2 to 2\nno omega: the policy is deterministic and has nothing to turn\n" in output
    assert output.strip().endswith("fits")


def test_what_does_not(
    bundle: Path, make_bundle: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    contract = tmp_path / "contract.yaml"
    contract.write_text(CONTRACT)
    for arguments, message in (
        ([str(contract), "--bundle", str(make_bundle(observation=4))], "expected the bundle's 4"),
        ([str(contract), "--bundle", str(tmp_path)], "cannot load"),
        ([str(tmp_path / "none.yaml")], "cannot be read"),
    ):
        assert cli.main(["check", *arguments]) == 1
        captured = capsys.readouterr()
        assert message in captured.err
        assert len(captured.err.splitlines()) == 1
        assert captured.out == ""


def test_types_out_of_a_table_where_no_ros_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("rosbags", reason="needs the rosbags package")

    def none(name: str) -> dict[str, str]:
        raise ContractError(f"message type {name} cannot be loaded")

    monkeypatch.setattr(cli, "describe_installed", none)
    for path in sorted(CONTRACTS.glob("*.yaml")):
        assert cli.main(["check", str(path)]) == 0, capsys.readouterr().err
