"""The node's parameters: names, defaults, ranges, and when each may change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dipole_runtime import GuidedPolicyError, read_bundle
from dipole_runtime.manifest import OmegaRange
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.node import Node
from rclpy.parameter import Parameter

from dipole_policy.errors import one_line
from dipole_policy.holder import PolicyOptions
from dipole_policy.omega import NO_OMEGA, omega_problem
from dipole_policy.rclpy_names import given_parameters

QOS_OVERRIDES = "qos_overrides."


@dataclass(frozen=True)
class Specification:
    """A parameter.

    :param low: smallest value of a number; None: no range.
    :param high: largest value of a number, if it has a range.
    :param read_only: set at the start, never changed.
    :param live: can change while the node is configured.
    :param dynamic: rclpy accepts any type; needed because rclpy reads an empty list as a list of bytes.
    """

    name: str
    default: Any
    description: str
    low: float | None = None
    high: float = math.inf
    read_only: bool = False
    live: bool = False
    dynamic: bool = False

    def descriptor(self) -> ParameterDescriptor:
        """The descriptor for its declaration."""
        descriptor = ParameterDescriptor(
            description=self.description, read_only=self.read_only, dynamic_typing=self.dynamic
        )
        if not self.dynamic:
            descriptor.type = Parameter.Type.from_parameter_value(self.default).value
        if self.low is not None and isinstance(self.default, float):
            descriptor.floating_point_range = [FloatingPointRange(from_value=self.low, to_value=self.high)]
        elif self.low is not None:
            descriptor.integer_range = [IntegerRange(from_value=int(self.low), to_value=int(self.high))]
        return descriptor


SPECIFICATIONS = (
    Specification(
        "bundle",
        "",
        "Path of the bundle that drives; setting it while the node is configured loads the new one beside the old one.",
        live=True,
    ),
    Specification("contract", "", "Path of the contract (YAML).", read_only=True),
    Specification(
        "bundle_root",
        "",
        "Directory that every later bundle has to lie in; empty: the directory that the first one lies in.",
        read_only=True,
    ),
    Specification(
        "omega",
        math.nan,
        "Greediness: -1 the negative policy, 0 the positive one, more is greedier; NaN before configuring: the default "
        "of the bundle, if its policy has one.",
        live=True,
    ),
    Specification(
        "omega_slew_per_s",
        0.0,
        "Largest change of the driving omega per second; 0: at once.",
        low=0.0,
        high=1e6,
        live=True,
    ),
    Specification(
        "shadow_omegas",
        [],
        "Values of omega whose actions are published on ~/shadow without being driven.",
        live=True,
        dynamic=True,
    ),
    Specification("shadow_only", False, "Decide and report, but drive nothing."),
    Specification(
        "recover_after_s", 0.5, "Seconds without fault before driving resumes after a stop.", low=0.0, high=3600.0
    ),
    Specification(
        "recover_automatically", True, "Whether driving resumes by itself; otherwise only the service ~/resume does it."
    ),
    Specification(
        "max_stall_s",
        0.5,
        "Seconds of the wall without a control period before the stop action goes out; 0: any, for simulations that "
        "pause.",
        low=0.0,
        high=60.0,
    ),
    Specification(
        "max_clock_jump_s",
        0.2,
        "Seconds that the clock of the wall may move against a steady one between two periods.",
        low=1e-3,
        high=60.0,
    ),
    Specification("deterministic", True, "Whether equal observations give equal actions (the same noise every time)."),
    Specification("num_candidates", 0, "Candidates per decision; 0: the bundle's.", low=0, high=4096),
    Specification("threads", 1, "Threads that one inference may use.", low=1, high=64),
    Specification("diagnostics_period_s", 1.0, "Seconds between two diagnostics.", low=0.05, high=60.0, read_only=True),
    Specification("autostart", False, "Whether to configure and activate right away.", read_only=True),
)
BY_NAME = {specification.name: specification for specification in SPECIFICATIONS}


def declare(node: Node) -> dict[str, str]:
    """Declares all parameters.

    :return: parameter → why the given value is refused; such parameters have their defaults instead.
    """
    problems = {}
    for specification in SPECIFICATIONS:
        try:
            node.declare_parameter(specification.name, specification.default, specification.descriptor())
        # rclpy's exceptions for a wrong type and a wrong value have no common base class.
        except Exception as error:
            problems[specification.name] = f"parameter {specification.name}: {one_line(error)}"
            node.declare_parameter(
                specification.name, specification.default, specification.descriptor(), ignore_override=True
            )
        if specification.dynamic:
            node.set_parameters([as_numbers(node.get_parameter(specification.name))])
    return problems


def as_numbers(parameter: Parameter) -> Parameter:
    """An empty list of numbers as such: rclpy takes it for a list of bytes. Every other parameter as it is."""
    specification = BY_NAME.get(parameter.name)
    if specification is None or not specification.dynamic or parameter.value is None:
        return parameter
    found = omegas(parameter.value)
    return parameter if found is None else Parameter(parameter.name, Parameter.Type.DOUBLE_ARRAY, found)


def undeclared(node: Node) -> list[str]:
    """Parameters that were given to the node but that it does not have: a misspelt limit must not go unnoticed.

    Those of the topics' quality of service (``qos_overrides.…``) are declared with the topics of a contract.
    """
    return sorted(name for name in given_parameters(node) if not node.has_parameter(name))


def unknown(names: Sequence[str], of_topics: bool) -> list[str]:
    """What is wrong with parameters that the node does not have, one sentence each.

    :param of_topics: those of the topics' quality of service, or the others.
    """
    expected = "its contract's topics and their policies" if of_topics else "the node's"
    found = [name for name in names if name.startswith(QOS_OVERRIDES) == of_topics]
    return [f"parameter {name} is unknown, expected one of {expected}" for name in found]


def omegas(value: Any) -> list[float] | None:
    """The value of a parameter of numbers as a list; None if it is something else."""
    if value is None:
        return []
    if isinstance(value, str | bytes) or (not isinstance(value, Sequence) and not hasattr(value, "tolist")):
        return None
    found = list(value)
    if any(isinstance(item, bool) or not isinstance(item, int | float) for item in found):
        return None
    return [float(item) for item in found]


@dataclass(frozen=True)
class Settings:
    """The parameters' values, as read when the node is configured.

    :param left_omega: the value of ``omega`` when the node was last cleaned up, if nobody has set it since; else NaN.
    """

    bundle: str
    contract: str
    bundle_root: str
    omega: float
    left_omega: float
    omega_slew_per_s: float
    shadow_omegas: tuple[float, ...]
    shadow_only: bool
    recover_after_s: float
    recover_automatically: bool
    max_stall_s: float
    max_clock_jump_s: float
    simulated: bool
    options: PolicyOptions

    @classmethod
    def of(cls, node: Node, left_omega: float) -> Settings:
        """Reads the current values."""

        def value(name: str) -> Any:
            return node.get_parameter(name).value

        return cls(
            **{
                name: value(name)
                for name in cls.__dataclass_fields__
                if name not in ("options", "simulated", "shadow_omegas", "left_omega")
            },
            left_omega=left_omega,
            shadow_omegas=tuple(omegas(value("shadow_omegas")) or ()),
            simulated=bool(value("use_sim_time")),
            options=PolicyOptions(value("threads"), value("deterministic"), value("num_candidates")),
        )


def omega_descriptor(limits: OmegaRange | None) -> ParameterDescriptor:
    """The descriptor of ``omega`` with a bundle's range, so that tools show a slider.

    :param limits: None: the policy has no ω.
    """
    descriptor = BY_NAME["omega"].descriptor()
    if limits is None:
        descriptor.description = f"NaN: {NO_OMEGA}."
    else:
        descriptor.floating_point_range = [FloatingPointRange(from_value=limits.low, to_value=limits.high)]
    return descriptor


def early_omega_problem(omega: Any, bundle: Any) -> str | None:
    """Why ω cannot be what it is set to while nothing drives: by the range of the bundle that will; None if it can.

    :param bundle: the parameter's value; a bundle that cannot be read is told of when the node is configured.
    """
    if not isinstance(bundle, str) or not bundle or (isinstance(omega, float) and math.isnan(omega)):
        return None
    try:
        return omega_problem(omega, read_bundle(bundle).manifest.omega)
    except GuidedPolicyError:
        return None


def refusal(parameters: Sequence[Parameter], configured: bool, simulated: bool) -> str | None:
    """Why these parameters may not be set now, whatever their values; None if they may.

    :param simulated: the value of ``use_sim_time``; it decides at the start which clock the control loop uses.
    """
    for parameter in parameters:
        specification = BY_NAME.get(parameter.name)
        if parameter.name == "use_sim_time" and parameter.value is not simulated:
            return "use_sim_time is given at the start and cannot change"
        if specification is None:
            continue
        if configured and not specification.live:
            return f"{parameter.name} can only change while the node is unconfigured"
        if parameter.value is None and specification.default is not None and not specification.dynamic:
            return f"{parameter.name} cannot be unset"
        if parameter.name == "shadow_omegas" and omegas(parameter.value) is None:
            return "shadow_omegas is no list of numbers"
    return None
