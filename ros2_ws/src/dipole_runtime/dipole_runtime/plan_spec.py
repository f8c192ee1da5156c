"""What a plan bundle's policy sees and when its poses are: the part of a manifest that other bundles do not have."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dipole_runtime.errors import shown

if TYPE_CHECKING:
    from dipole_runtime.manifest import Manifest

CAMERAS = "cameras"
HISTORY = "history"
VELOCITY = "velocity"
ACCELERATION = "acceleration"
COMMAND = "command"
POSE = 3
"""x and y in metres, yaw in radians."""
NOISE_OF_POSE = 4
"""Standard normal numbers that a pose starts from: x, y, cos yaw, sin yaw."""
MAX_PIXELS = 1 << 24
"""Of all pictures of a decision."""


@dataclass(frozen=True)
class PlanSpec:
    """What a plan is made from, and when its poses are.

    :param cameras: names, in the order in which the observation holds their pictures; at least one.
    :param height: of every picture, in pixels.
    :param width: likewise.
    :param commands: names of the driving commands; an observation's command is an index into them.
    :param tokens: number of tokens in which the encoder describes a scene.
    :param token_size: elements of a token.
    :param interval_s: between two poses, also of the history; the first pose of a plan is so much ahead of now.
    """

    cameras: tuple[str, ...]
    height: int
    width: int
    commands: tuple[str, ...]
    tokens: int
    token_size: int
    interval_s: float

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """Of one camera's picture, uint8, RGB."""
        return (self.height, self.width, 3)

    def to_json(self) -> dict[str, Any]:
        """As in a manifest."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}

    @classmethod
    def from_json(cls, value: Any) -> PlanSpec:
        """Of a value that the schema allows."""
        return cls(
            cameras=tuple(value["cameras"]),
            height=int(value["height"]),
            width=int(value["width"]),
            commands=tuple(value["commands"]),
            tokens=int(value["tokens"]),
            token_size=int(value["token_size"]),
            interval_s=float(value["interval_s"]),
        )


def plan_contradictions(manifest: Manifest, plan: PlanSpec) -> Iterator[str]:
    """Where a plan bundle's manifest contradicts itself, beyond what is checked for every bundle."""
    for what, names in (("cameras", plan.cameras), ("commands", plan.commands)):
        if len(set(names)) != len(names) or not all(map(str.isprintable, names)):
            yield f"at plan.{what}: found {shown(str(names))}, expected different printable names"
    pixels = len(plan.cameras) * plan.height * plan.width
    if pixels > MAX_PIXELS:
        yield f"at plan: found {pixels} pixels of all cameras, expected at most {MAX_PIXELS}"
    expected = {VELOCITY: (2,), ACCELERATION: (2,), COMMAND: ()}
    found = {part.key: part.shape for part in manifest.observation.parts}
    history = found.pop(HISTORY, ())
    if found != expected or len(history) != 2 or history[1] != POSE:
        keys = shown(str({part.key: part.shape for part in manifest.observation.parts}), 200)
        yield (
            f"at observation.parts: found {keys}, expected history of shape (any, 3), velocity (2,), acceleration (2,) "
            "and command ()"
        )
    if len(manifest.action.shape) != 2 or manifest.action.shape[1] != POSE:
        yield f"at action.shape: found {shown(str(manifest.action.shape))}, expected poses (any, 3)"


def noise_size(action_size: int) -> int:
    """Numbers of noise that a plan with so many elements starts from."""
    return action_size // POSE * NOISE_OF_POSE
