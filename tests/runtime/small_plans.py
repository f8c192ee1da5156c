"""A tiny but real plan bundle, and what it computes, worked out apart from it in float64 with NumPy alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from dipole_runtime.manifest import (
    MANIFEST,
    PLANNER,
    SCENE_ENCODER,
    VECTORS,
    ActionSpec,
    Guidance,
    Manifest,
    ObservationPart,
    ObservationSpec,
    OmegaRange,
    Parity,
)
from dipole_runtime.plan_spec import PlanSpec
from dipole_runtime.vectors import PlanVectors
from onnx import TensorProto, helper
from small_bundles import Graph, entry_of, values

Array = np.ndarray[Any, Any]
CAMERAS = ("CAM_L0", "CAM_F0", "CAM_R0")
COMMANDS = ("left", "straight", "right", "unknown")
HEIGHT, WIDTH, POSES, TOKEN = 6, 8, 8, 4
OMEGAS = (-1.0, 0.0, 0.5, 2.0, 4.0)
FAR = 20.0
"""Metres."""
SPEED = 40.0
"""Metres a second to which plans are bounded."""
SIZE = 17
"""Numbers that are seen besides the pictures: history, velocity, acceleration, command."""
NAMES = tuple(
    f"{what}_{index}"
    for what, count in (("history", 12), ("velocity", 2), ("acceleration", 2), ("command", 1))
    for index in range(count)
)


class SmallPlanner:
    """Random weights of an encoder and a planner.

    The encoder: the mean colour of each camera and the other numbers, through one layer, are a token a camera. The
    planner: the mean token, the history and the noise make a straight drive, which ω bends.
    """

    def __init__(self, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)

        def weights(*shape: int) -> Array:
            return (rng.normal(size=shape) / np.sqrt(shape[0])).astype(np.float32)

        self.token, self.seen = weights(8, TOKEN), weights(TOKEN + 12, POSES * 3)
        self.noise, self.bend = weights(POSES * 4, POSES * 3), weights(TOKEN + 12, POSES * 3)
        ahead = np.zeros((POSES, 3), np.float32)
        ahead[:, 0] = 5.0 * np.arange(1, POSES + 1)
        self.ahead = ahead.reshape(-1)

    def tokens(self, cameras: Array, velocity: Array, acceleration: Array, command: int) -> Array:
        """[cameras, 4] from one scene."""
        colours = cameras.astype(np.float64).mean(axis=(1, 2)) / 255
        told = np.tile(np.concatenate([velocity, acceleration, [command]]), (len(cameras), 1))
        return np.tanh(np.concatenate([colours, told], axis=1) @ self.token)

    def plan(self, tokens: Array, history: Array, noise: Array, omega: float) -> Array:
        """[24], of the poses (x, y, yaw)."""
        seen = np.concatenate([tokens.mean(axis=0), history.reshape(-1) / FAR])
        plan = self.ahead + seen @ self.seen + 0.3 * noise.reshape(-1) @ self.noise + 0.1 * omega * (seen @ self.bend)
        return np.asarray(plan)

    def of(self, observation: Mapping[str, Any], noise: Array, omega: float) -> Array:
        """The plan [8, 3] of one observation, from noise [1, 32] or [8, 4]."""
        tokens = self.tokens(
            *(observation[key] for key in ("cameras", "velocity", "acceleration")), int(observation["command"])
        )
        return self.plan(tokens, np.asarray(observation["history"]), noise, omega).reshape(POSES, 3)


def an_observation(seed: int) -> dict[str, Any]:
    """What a car sees."""
    rng = np.random.default_rng(seed)
    history = rng.normal(size=(4, 3)).astype(np.float32)
    history[-1] = 0.0
    return {
        "cameras": rng.integers(0, 256, (len(CAMERAS), HEIGHT, WIDTH, 3), np.uint8),
        "history": history,
        "velocity": rng.normal(size=2).astype(np.float32),
        "acceleration": rng.normal(size=2).astype(np.float32),
        "command": int(rng.integers(len(COMMANDS))),
    }


def make_plan_vectors(planner: SmallPlanner, count: int = 3, seed: int = 1) -> PlanVectors:
    """The trainer's, by the mathematics above."""
    noise = np.random.default_rng(seed).normal(size=(count, 1, POSES * 4)).astype(np.float32)
    seen = [an_observation(seed * 100 + index) for index in range(count)]
    flat = [
        np.concatenate([one["history"].ravel(), one["velocity"], one["acceleration"], [one["command"]]]) for one in seen
    ]
    plans = [
        [planner.of(one, start, omega).ravel() for omega in OMEGAS] for one, start in zip(seen, noise, strict=True)
    ]
    return PlanVectors(
        np.stack([one["cameras"] for one in seen]),
        np.array(flat, np.float32),
        noise,
        np.array(OMEGAS, np.float32),
        np.array(plans, np.float32),
    )


def encoder_model(planner: SmallPlanner) -> onnx.ModelProto:
    graph = Graph()
    mean = graph.add("ReduceMean", _cast(graph, "cameras"), graph.weight([1, 2], np.int64), keepdims=0)
    colours = graph.add("Div", mean, graph.weight(255.0))
    command = graph.add("Unsqueeze", _cast(graph, "command"), graph.weight([0], np.int64))
    told = graph.add("Concat", "velocity", "acceleration", command, axis=0)
    rows = graph.add("Tile", graph.add("Unsqueeze", told, graph.weight([0], np.int64)), graph.weight([3, 1], np.int64))
    both = graph.add("Concat", colours, rows, axis=1)
    graph.add("Tanh", graph.add("MatMul", both, graph.weight(planner.token)), to="tokens")
    inputs = [
        helper.make_tensor_value_info("cameras", TensorProto.UINT8, [len(CAMERAS), HEIGHT, WIDTH, 3]),
        *values({"velocity": [2], "acceleration": [2]}),
        helper.make_tensor_value_info("command", TensorProto.INT64, []),
    ]
    return _model(graph, inputs, values({"tokens": [len(CAMERAS), TOKEN]}))


def planner_model(planner: SmallPlanner) -> onnx.ModelProto:
    graph = Graph()
    flat, column = graph.weight([-1], np.int64), graph.weight([-1, 1], np.int64)
    mean = graph.add("ReduceMean", "tokens", graph.weight([0], np.int64), keepdims=0)
    past = graph.add("Div", graph.add("Reshape", "history", flat), graph.weight(FAR))
    seen = graph.add("Concat", mean, past, axis=0)
    noise = graph.add("MatMul", graph.add("Reshape", "noise", flat), graph.weight(0.3 * planner.noise))
    known = graph.add("MatMul", seen, graph.weight(planner.seen))
    still = graph.add("Add", graph.add("Add", known, noise), graph.weight(planner.ahead))
    bend = graph.add("MatMul", seen, graph.weight(0.1 * planner.bend))
    bent = graph.add("Mul", graph.add("Reshape", "omega", column), bend)
    plans = graph.add("Add", bent, still)
    graph.add("Reshape", plans, graph.weight([-1, POSES, 3], np.int64), to="plan")
    inputs = values({"tokens": [len(CAMERAS), TOKEN], "history": [4, 3], "noise": [POSES, 4], "omega": ["W"]})
    return _model(graph, inputs, values({"plan": ["W", POSES, 3]}))


def _cast(graph: Graph, name: str) -> str:
    output = f"{name}_float"
    graph.nodes.append(helper.make_node("Cast", [name], [output], to=TensorProto.FLOAT))
    return output


def _model(graph: Graph, inputs: Any, outputs: Any) -> onnx.ModelProto:
    made = helper.make_graph(graph.nodes, "g", inputs, outputs, graph.weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def plan_manifest(files: Mapping[str, bytes]) -> Manifest:
    part = {"history": (4, 3), "velocity": (2,), "acceleration": (2,)}
    times = 0.5 * np.repeat(np.arange(1, POSES + 1), 3)
    reach = np.where(np.arange(POSES * 3) % 3 == 2, np.pi, SPEED * times)
    return Manifest(
        files={name: entry_of(content) for name, content in files.items() if name != MANIFEST},
        observation=ObservationSpec(
            SIZE,
            NAMES,
            (
                *(ObservationPart(key, shape, "float32", "Box", None) for key, shape in part.items()),
                ObservationPart("command", (), "int64", "Discrete", None),
            ),
        ),
        action=ActionSpec(
            POSES * 3,
            (POSES, 3),
            tuple(f"{what}_{time:g}s" for time, what in zip(times, ("x", "y", "yaw") * POSES, strict=True)),
            tuple(map(float, -reach)),
            tuple(map(float, reach)),
        ),
        guidance=Guidance(10, 1, OmegaRange(0.5, -1.0, 4.0)),
        precision="fp32",
        parity=Parity(1e-6, 1e-4, 0.0, 0.0),
        provenance={"seed": 0},
        plan=PlanSpec(CAMERAS, HEIGHT, WIDTH, COMMANDS, len(CAMERAS), TOKEN, 0.5),
    )


def make_plan_files(planner: SmallPlanner) -> dict[str, bytes]:
    """The four files of a plan bundle."""
    files = {
        SCENE_ENCODER: encoder_model(planner).SerializeToString(deterministic=True),
        PLANNER: planner_model(planner).SerializeToString(deterministic=True),
        VECTORS: make_plan_vectors(planner).to_bytes(),
    }
    return {MANIFEST: plan_manifest(files).to_bytes(), **files}
