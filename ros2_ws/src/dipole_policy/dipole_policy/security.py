"""The SROS 2 policy of the node under a contract: the topics and services that it needs, and nothing else."""

from __future__ import annotations

import re
from collections.abc import Iterable
from xml.sax.saxutils import escape, quoteattr

from dipole_policy.contract import Contract
from dipole_policy.errors import ContractError, shown
from dipole_policy.typed import TOPICS as TYPED

SUBSCRIBED = ("/clock", "bond", "~/omega")
"""Topics that the node subscribes to besides the contract's: /clock under ``use_sim_time``, the bond with bondpy."""
PUBLISHED = (
    "/diagnostics",
    "/parameter_events",
    "/rosout",
    "bond",
    "~/audit",
    "~/driven",
    "~/latency",
    "~/model_info",
    "~/shadow",
    "~/status",
    "~/transition_event",
    *TYPED.values(),
)
"""Topics that the node publishes besides the contract's commands: the bond with bondpy, the typed with dipole_msgs."""
SERVICES = (
    "~/reload",
    "~/resume",
    "~/stop",
    # Of every lifecycle node.
    "~/change_state",
    "~/get_available_states",
    "~/get_available_transitions",
    "~/get_state",
    "~/get_transition_graph",
    # Of every node with parameters.
    "~/describe_parameters",
    "~/get_parameter_types",
    "~/get_parameters",
    "~/list_parameters",
    "~/set_parameters",
    "~/set_parameters_atomically",
    # Of every node from Iron on.
    "~/get_type_description",
)
"""Services that the node offers; it calls none."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH = re.compile(r"/|(?:/[A-Za-z_][A-Za-z0-9_]*)+")


def policy(contract: Contract, name: str = "dipole_policy", namespace: str = "/", enclave: str | None = None) -> str:
    """The XML file for ``ros2 security create_permission``.

    Names are written as the contract has them: sros2 puts relative ones below the namespace and ``~/`` below the node.

    :param name: of the node.
    :param namespace: of the node, with a leading slash.
    :param enclave: path of the enclave, with a leading slash; None: the node's full name.
    :raises ContractError: a name, namespace or enclave that ROS does not accept.
    """
    _require(_NAME, name, "name", "letters, digits and _")
    _require(_PATH, namespace, "namespace", "a path such as /robot")
    enclave = f"{namespace.rstrip('/')}/{name}" if enclave is None else enclave
    _require(_PATH, enclave, "enclave", "a path such as /robot/dipole_policy")
    # Each once, in the contract's order: several entries may read one topic.
    inputs = dict.fromkeys(entry.topic for entry in contract.inputs)
    commands = [entry.topic for entry in contract.actions]
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        "<!-- What dipole_policy may do under one contract, and nothing else; made by: dipole_policy security. -->",
        '<policy version="0.2.0">',
        "  <enclaves>",
        f"    <enclave path={quoteattr(enclave)}>",
        "      <profiles>",
        f"        <profile ns={quoteattr(namespace)} node={quoteattr(name)}>",
        *_rule("topics", "topic", "subscribe", [*inputs, *SUBSCRIBED]),
        *_rule("topics", "topic", "publish", [*commands, *PUBLISHED]),
        *_rule("services", "service", "reply", SERVICES),
        "        </profile>",
        "      </profiles>",
        "    </enclave>",
        "  </enclaves>",
        "</policy>",
    ]
    return "\n".join(lines) + "\n"


def _rule(group: str, kind: str, action: str, names: Iterable[str]) -> list[str]:
    entries = [f"            <{kind}>{escape(name)}</{kind}>" for name in names]
    return [f'          <{group} {action}="ALLOW">', *entries, f"          </{group}>"]


def _require(pattern: re.Pattern[str], value: str, what: str, expected: str) -> None:
    if not pattern.fullmatch(value):
        raise ContractError(f"{what} is {shown(value)}, expected {expected}")
