"""The SROS 2 policy: what sros2 makes of it, and whether it names what the node really creates."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from importlib.util import find_spec
from pathlib import Path

import pytest
from dipole_policy import cli
from dipole_policy.contract import Contract
from dipole_policy.errors import ContractError
from dipole_policy.security import PUBLISHED, SERVICES, SUBSCRIBED, policy
from dipole_policy.typed import TOPICS
from robots import CONTRACT

PACKAGE = Path(__file__).resolve().parents[2] / "ros2_ws/src/dipole_policy"
SHIPPED = PACKAGE / "security/policy.xml"
EXAMPLE = PACKAGE / "contracts/mobile_base.yaml"
RULES = {"topics": {"publish", "subscribe"}, "services": {"reply", "request"}, "actions": {"call", "execute"}}
"""What sros2's schema of policies allows: groups and their attributes."""


def expanded(name: str, ns: str, node: str) -> str:
    """A name of a policy in full: ``~`` stands for namespace and node, relative names are below the namespace.

    The rule of sros2's template: what follows ``~`` is appended as it is, so that only ``~/omega`` has its slash.
    """
    below = ns if ns.endswith("/") else f"{ns}/"
    if name.startswith("/"):
        return name
    return f"{below}{node}{name[1:]}" if name.startswith("~") else f"{below}{name}"


def permissions(text: str) -> dict[str, set[str]]:
    """The DDS topics that sros2 would let the enclave publish and subscribe to."""
    found: dict[str, set[str]] = {"publish": set(), "subscribe": set()}
    for profile in ElementTree.fromstring(text).iter("profile"):
        ns, node = profile.get("ns", ""), profile.get("node", "")
        for group in profile:
            for entry in group:
                name = expanded(entry.text or "", ns, node)
                if group.tag == "topics":
                    for direction in ("publish", "subscribe"):
                        if group.get(direction) == "ALLOW":
                            found[direction].add(f"rt{name}")
                elif group.get("reply") == "ALLOW":
                    found["publish"].add(f"rr{name}Reply")
                    found["subscribe"].add(f"rq{name}Request")
    return found


def contract(text: str = CONTRACT) -> Contract:
    return Contract.from_bytes(text.encode(), "robot.yaml")


def test_the_shipped_file_is_that_of_the_example():
    assert SHIPPED.read_text() == policy(Contract.load(EXAMPLE)), (
        "dipole_policy security contracts/mobile_base.yaml > security/policy.xml"
    )


def test_what_sros2_makes_of_it():
    found = permissions(SHIPPED.read_text())
    assert {"rt/odom", "rt/imu/data", "rt/clock", "rt/dipole_policy/omega"} <= found["subscribe"]
    assert {"rt/cmd_vel", "rt/dipole_policy/audit", "rt/dipole_policy/transition_event"} <= found["publish"]
    assert "rq/dipole_policy/reloadRequest" in found["subscribe"]
    assert "rr/dipole_policy/reloadReply" in found["publish"]
    assert "rq/dipole_policy/set_parametersRequest" in found["subscribe"]
    assert "rr/dipole_policy/change_stateReply" in found["publish"]
    # The command is not read, the inputs are not written, and no service is called.
    assert not found["subscribe"] & {"rt/cmd_vel"}
    assert not found["publish"] & {"rt/odom", "rt/imu/data", "rt/dipole_policy/omega"}
    assert not [name for name in found["publish"] if name.startswith("rq")]
    private = [name for names in found.values() for name in names if "dipole_policy" in name]
    assert all("/dipole_policy/" in name for name in private), private


def test_the_wrong_form_would_be_seen():
    text = SHIPPED.read_text().replace("~/omega", "~omega")
    assert "rt/dipole_policyomega" in permissions(text)["subscribe"]


def test_names_of_another_node():
    text = policy(contract(CONTRACT.replace("/command", "command").replace("/speed", "~/speed")), "driver", "/arm")
    found = permissions(text)
    assert {"rt/arm/command", "rt/arm/driver/audit", "rt/diagnostics"} <= found["publish"]
    assert {"rt/joint_states", "rt/arm/driver/speed", "rt/arm/driver/omega"} <= found["subscribe"]
    assert 'enclave path="/arm/driver"' in text
    assert 'enclave path="/own"' in policy(contract(), enclave="/own")


def test_every_command_and_every_measurement_is_allowed():
    several = (
        CONTRACT[: CONTRACT.index("action:")]
        + """action:
  - {topic: /arm, type: std_msgs/msg/Float64MultiArray, field: data, size: 1, on_stop: hold, start_from: {topic: /there,
     type: std_msgs/msg/Float64, field: data, max_age_s: 0.2}}
  - {topic: /base, type: std_msgs/msg/Float64MultiArray, field: data, size: 1, on_stop: zero}
"""
    )
    found = permissions(policy(contract(several)))
    assert {"rt/arm", "rt/base"} <= found["publish"]
    assert "rt/there" in found["subscribe"]


def test_it_has_the_form_that_sros2_accepts():
    root = ElementTree.fromstring(SHIPPED.read_text())
    assert (root.tag, root.attrib) == ("policy", {"version": "0.2.0"})
    (enclaves,) = root
    (enclave,) = enclaves
    (profiles,) = enclave
    (profile,) = profiles
    assert [enclaves.tag, enclave.tag, profiles.tag, profile.tag] == ["enclaves", "enclave", "profiles", "profile"]
    assert set(enclave.attrib) == {"path"}
    assert set(profile.attrib) == {"ns", "node"}
    for group in profile:
        assert group.attrib
        assert set(group.attrib) <= RULES[group.tag]
        assert set(group.attrib.values()) <= {"ALLOW", "DENY"}
        names = [entry.text for entry in group]
        assert len(names) == len(set(names)) > 0, "each once"
        assert {entry.tag for entry in group} == {group.tag.removesuffix("s")}


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "contract.yaml"
    file.write_text(CONTRACT)
    options = ["--name", "driver", "--namespace", "/arm", "--enclave", "/own"]
    assert cli.main(["security", str(file), *options]) == 0
    assert capsys.readouterr().out == policy(contract(), "driver", "/arm", "/own")
    for arguments, message in (
        (["--name", "a/b"], "name is 'a/b', expected letters, digits and _"),
        (["--namespace", "arm"], "namespace is 'arm', expected a path such as /robot"),
        (["--enclave", "own/"], "enclave is 'own/', expected a path such as /robot/dipole_policy"),
    ):
        assert cli.main(["security", str(file), *arguments]) == 1
        captured = capsys.readouterr()
        assert captured.err == f"{message}\n"
        assert captured.out == ""
    assert cli.main(["security", str(tmp_path / "none.yaml")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_a_name_cannot_add_rules():
    with pytest.raises(ContractError, match="name is"):
        policy(contract(), name='x"/><profile ns="/" node="y')


@pytest.mark.skipif(
    find_spec("rclpy") is None, reason="rclpy is not installed: see the extra 'ros' or your ROS distribution"
)
@pytest.mark.usefixtures("ros")
@pytest.mark.parametrize("simulated", [False, True])
def test_it_names_what_the_node_creates(bundle: Path, contract: Path, simulated: bool):
    """As other nodes see it: nothing that Enforce would deny, and nothing that is allowed for no use."""
    from graph import pair, wait

    with pair(bundle, contract, use_sim_time=simulated) as (node, robot):
        assert robot.change("configure")
        name, namespace = node.get_name(), node.get_namespace()
        look = robot.node
        least = len(PUBLISHED) - 1 - (len(TOPICS) if find_spec("dipole_msgs") is None else 0)
        # Discovery takes a moment: the newest entities are those of configuring.
        wait(lambda: len(look.get_publisher_names_and_types_by_node(name, namespace)) > least, "discovery")
        wait(lambda: len(look.get_service_names_and_types_by_node(name, namespace)) >= len(SERVICES) - 1, "discovery")
        created = {
            "publish": {found for found, _ in look.get_publisher_names_and_types_by_node(name, namespace)},
            "subscribe": {found for found, _ in look.get_subscriber_names_and_types_by_node(name, namespace)},
            "reply": {found for found, _ in look.get_service_names_and_types_by_node(name, namespace)},
        }
        called = look.get_client_names_and_types_by_node(name, namespace)
        text = policy(Contract.load(contract), name, namespace)
    allowed: dict[str, set[str]] = {action: set() for action in created}
    for group in ElementTree.fromstring(text).iter("profile"):
        for rule in group:
            (action,) = rule.attrib
            allowed[action] |= {expanded(entry.text or "", namespace, name) for entry in rule}
    # Humble has no get_type_description; the bond is there while the node is active, with bondpy.
    optional = {"publish": {f"{namespace}/bond"}, "subscribe": {f"{namespace}/bond"}}
    optional["reply"] = {f"{namespace}/{name}/get_type_description"}
    if not simulated:
        optional["subscribe"].add("/clock")
    if find_spec("dipole_msgs") is None:
        optional["publish"] |= {f"{namespace}/{name}{topic[1:]}" for topic in TOPICS.values()}
    for action, names in created.items():
        assert names <= allowed[action]
        assert allowed[action] - optional[action] <= names
    assert called == []
    assert SUBSCRIBED[0] == "/clock"
