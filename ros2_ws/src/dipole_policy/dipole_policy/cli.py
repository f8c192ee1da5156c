"""``dipole_policy check CONTRACT --bundle B``: whether they fit together; ``security CONTRACT``: the SROS 2 policy.

Neither needs ROS to be running.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from dipole_runtime.manifest import OmegaRange

from dipole_policy.cameras import CameraReader
from dipole_policy.contract import ActionEntry, Contract
from dipole_policy.errors import ContractError, GuidedPolicyError
from dipole_policy.fields import (
    Describe,
    Description,
    describe_installed,
    describe_recorded,
    message_class,
    shown_field,
)
from dipole_policy.holder import Fitting, Loaded, PolicyOptions
from dipole_policy.security import policy


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line.

    :return: exit status: 0 when everything fits, 1 with one sentence on stderr otherwise.
    """
    parser = argparse.ArgumentParser("dipole_policy", description="A guided policy on a robot.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    check = commands.add_parser("check", help="whether a contract, its message types and a bundle fit")
    check.add_argument("contract", help="YAML file")
    check.add_argument("--bundle", help="directory or .dipole file; without it, only contract and types are checked")
    check.set_defaults(answer=lambda given: "\n".join(checked(given.contract, given.bundle)) + "\n")
    security = commands.add_parser("security", help="the SROS 2 policy of the node under a contract, as XML")
    security.add_argument("contract", help="YAML file")
    security.add_argument("--name", default="dipole_policy", help="of the node")
    security.add_argument("--namespace", default="/", help="of the node")
    security.add_argument("--enclave", help="its path; the node's full name by default")
    security.set_defaults(
        answer=lambda given: policy(Contract.load(given.contract), given.name, given.namespace, given.enclave)
    )
    options = parser.parse_args(arguments)
    try:
        print(options.answer(options), end="")
    except (ContractError, GuidedPolicyError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def checked(contract_path: str, bundle: str | None) -> list[str]:
    """Makes the same checks as the node when it is configured.

    :return: which message field goes to which element, line by line.
    :raises ContractError: the contract does not fit the message types or the bundle.
    :raises GuidedPolicyError: the bundle cannot be read, or acts differently than on the machine that made it.
    """
    contract = Contract.load(contract_path)
    fitting = Fitting(contract, describe_available(), PolicyOptions())
    lines = [
        f"contract {contract.where}: {contract.rate_hz:g} Hz, deadline {contract.deadline_s:g} s, "
        f"{contract.deadline_misses} may miss it"
    ]
    loaded = None if bundle is None else fitting.load(bundle)
    lines += _observation_lines(fitting, loaded)
    if loaded is None:
        actions = [line for entry in contract.actions for line in _action_lines(entry)]
        return [*lines, *actions, "no bundle given: sizes and names are not checked"]
    spec = loaded.policy.manifest.action
    for writer, part in zip(loaded.writers, loaded.parts, strict=True):
        kind = writer.entry.type
        try:
            message_class(kind)
        except ContractError:
            lines.append(f"{kind} is not installed here: writing it is not tried")
        else:
            writer.try_out(lambda name: message_class(name)())
        lines += _action_lines(writer.entry)
        for at in range(part.start, part.stop):
            lines.append(f"  {spec.names[at]}: {spec.low[at]:g} to {spec.high[at]:g}")
    return [
        *lines,
        _omega_line(loaded.policy.manifest.omega),
        f"bundle {bundle} ({loaded.policy.hash[:12]}) fits",
    ]


def _observation_lines(fitting: Fitting, loaded: Loaded | None) -> list[str]:
    lines, start = [], 0
    order = fitting.readers if loaded is None else loaded.layout.order
    for reader in order:
        entry = reader.entry
        if isinstance(reader, CameraReader):
            key = "" if entry.key is None else f" → {entry.key}"
            lines.append(f"  {entry.topic} {entry.type}{key}, a picture{_picture(reader, loaded)}")
            continue
        fields = ", ".join(map(shown_field, entry.fields))
        what = fields if entry.function is None else f"{entry.function}({fields})"
        names = () if loaded is None else loaded.policy.manifest.observation.names[start : start + reader.size]
        shown = "" if not names else f": {', '.join(names)}"
        key = "" if entry.key is None else f" → {entry.key}"
        lines.append(f"  {entry.topic} {entry.type} {what}{key}, {reader.size} elements{shown}")
        start += reader.size
    return [f"observation, {start} elements:", *lines]


def _picture(camera: CameraReader, loaded: Loaded | None) -> str:
    options, manifest = camera.options, None if loaded is None else loaded.policy.manifest
    words = ""
    if manifest is not None and manifest.plan is not None:
        words = f" of {manifest.plan.width} × {manifest.plan.height} pixels"
    elif manifest is not None:
        (spec,) = (one for one in manifest.pictures if one.key == camera.entry.key)
        kind = "colour" if spec.channels // options.stack == 3 else "grey"
        words = f" of {spec.width} × {spec.height} pixels, {kind if options.range is None else 'depth'}"
    if (crop := options.crop) is not None:
        words += f", cut out at {crop.left}, {crop.top} ({crop.width} × {crop.height})"
    if options.range is not None:
        words += ", {} to {} as 1 to 255".format(*options.range)
    return words if options.stack == 1 else f"{words}, {options.stack} frames"


def _omega_line(omega: OmegaRange | None) -> str:
    if omega is None:
        return "no omega: the policy is deterministic and has nothing to turn"
    return f"omega {omega.low:g} to {omega.high:g}, default {omega.default:g}"


def _action_lines(entry: ActionEntry) -> list[str]:
    what = ", ".join(map(shown_field, entry.fields)) if entry.frame is None else f"in the frame of {entry.frame}"
    lines = [f"action: {entry.topic} {entry.type} {what}; on stop: {entry.on_stop}"]
    start = entry.start_from
    if start is not None:
        lines.append(f"  starts from {start.topic} {start.type} {', '.join(map(shown_field, start.fields))}")
    return lines


def describe_available() -> Describe:
    """Descriptions of installed message types and, if the rosbags package is installed, of ROS 2 Humble's own types."""
    recorded = _recorded()

    def describe(name: str) -> Description:
        try:
            return describe_installed(name)
        except ContractError:
            if recorded is None:
                raise
            return recorded(name)

    return describe


def _recorded() -> Describe | None:
    try:
        from rosbags.typesys import Stores, get_typestore
    except ImportError:
        return None
    return describe_recorded(get_typestore(Stores.ROS2_HUMBLE).fielddefs)


if __name__ == "__main__":
    sys.exit(main())
