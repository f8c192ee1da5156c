"""Tiny but real bundles, and what they compute, worked out apart from them in float64 with NumPy alone."""

from __future__ import annotations

import hashlib
import io
import math
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
import onnx
from dipole_runtime.manifest import (
    CRITIC,
    DETERMINISTIC,
    GUIDED,
    MANIFEST,
    NEGATIVE,
    NETWORK_FILES,
    POSITIVE,
    PREDICTOR,
    VECTORS,
    ActionSpec,
    FileEntry,
    Guidance,
    Manifest,
    Normalization,
    ObservationPart,
    ObservationSpec,
    OmegaRange,
    Parity,
)
from dipole_runtime.vectors import ActionVectors
from dipole_runtime.vectors import TestVectors as Vectors
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
PAIR_NETWORKS = NETWORK_FILES["pair"]
PAIR_DATA = (*PAIR_NETWORKS, VECTORS)
PAIR_FILES = (MANIFEST, *PAIR_DATA)
FORMS = ("pair", "deterministic", "diffusion", "plan")
BETAS = (0.1, 0.3, 0.6)
"""Of the diffusion policy's steps."""
NETWORKS_OF_FORMS = [(form, name) for form, names in NETWORK_FILES.items() for name in names]


Layers = list[tuple[Array, Array]]


@dataclass(frozen=True)
class Sizes:
    """Of the networks: K flow steps, N candidates by default, hidden widths."""

    observation: int = 3
    action: int = 2
    hidden: tuple[int, ...] = (8, 8)
    steps: int = 4
    candidates: int = 3


PAPER = Sizes(28, 5, (512, 512, 512), 10, 4)


@dataclass
class SmallPolicy:
    """Weights of two velocity fields and two critics, with everything that is known of them.

    As a deterministic policy it acts by ``deterministic`` and the same critics, as a diffusion policy by ``positive``,
    which predicts the noise then.
    """

    sizes: Sizes
    positive: Layers
    negative: Layers
    critics: list[Layers]
    low: Array
    high: Array
    parts: tuple[ObservationPart, ...]
    action_shape: tuple[int, ...]
    deterministic: Layers
    omegas: tuple[float, ...] = (-1.0, 0.0, 0.5, 2.0, 4.0)
    provenance: Mapping[str, Any] = field(default_factory=lambda: {"seed": 0, "data set": "none"})

    @property
    def mean(self) -> Array:
        return np.concatenate(
            [part.normalization.mean if part.normalization else [0.0] * part.size for part in self.parts]
        )

    @property
    def std(self) -> Array:
        return np.concatenate(
            [part.normalization.std if part.normalization else [1.0] * part.size for part in self.parts]
        )

    @property
    def clip(self) -> Array:
        return np.concatenate(
            [np.full(part.size, part.normalization.clip if part.normalization else 1e30) for part in self.parts]
        )


def make_policy(sizes: Sizes = Sizes(), parts: tuple[ObservationPart, ...] | None = None, seed: int = 0) -> SmallPolicy:
    """Random weights; bounds that differ between actions, a normaliser that clips now and then."""
    rng = np.random.default_rng(seed)
    observation, action = sizes.observation, sizes.action

    def layers(first: int, last: int) -> Layers:
        widths = [first, *sizes.hidden, last]
        return [
            (
                rng.normal(size=(before, after)).astype(np.float32) / np.float32(math.sqrt(before)),
                rng.normal(size=after).astype(np.float32) * np.float32(0.3),
            )
            for before, after in pairwise(widths)
        ]

    if parts is None:
        normalization = Normalization(
            tuple(float(np.float32(value)) for value in rng.normal(size=observation)),
            tuple(float(np.float32(value)) for value in rng.uniform(0.5, 2.0, observation)),
            1.5,
        )
        parts = (ObservationPart(None, (observation,), "float32", "Box", normalization),)
    low = -np.arange(1, action + 1, dtype=np.float32)
    return SmallPolicy(
        sizes,
        positive=layers(observation + action + 1, action),
        negative=layers(observation + action + 1, action),
        critics=[layers(observation + action, 1) for _ in range(2)],
        low=low,
        high=low + np.arange(3, action + 3, dtype=np.float32),
        parts=parts,
        action_shape=(action,),
        # Far enough that some actions are clipped.
        deterministic=[(weight * np.float32(1.5), bias) for weight, bias in layers(observation, action)],
    )


def dict_parts() -> tuple[ObservationPart, ...]:
    """A Dict observation of 1 + 4 + 2 elements."""
    return (
        ObservationPart("goal", (1,), "float64", "Box", Normalization((0.5,), (2.0,), 10.0)),
        ObservationPart("arm", (2, 2), "float32", "Box", None),
        ObservationPart("buttons", (2,), "int8", "MultiBinary", None),
    )


def gelu(x: Array) -> Array:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


def perceptron(layers: Layers, x: Array) -> Array:
    for weight, bias in layers[:-1]:
        x = gelu(x @ weight.astype(np.float64) + bias)
    weight, bias = layers[-1]
    return x @ weight.astype(np.float64) + bias


def normalized(policy: SmallPolicy, observation: Array) -> Array:
    return np.clip((observation - policy.mean) / policy.std, -policy.clip, policy.clip)


def candidates_of(policy: SmallPolicy, observation: Array, noise: Array, omega: float) -> Array:
    """[N, act] in the robot's units, from one raw observation [obs]."""
    steps = policy.sizes.steps
    x = noise.astype(np.float64)
    for step in range(steps):
        seen = np.tile(normalized(policy, observation.astype(np.float64)), (len(x), 1))
        rows = np.concatenate([seen, x, np.full((len(x), 1), step / steps)], axis=1)
        x = x + ((1 + omega) * perceptron(policy.positive, rows) - omega * perceptron(policy.negative, rows)) / steps
    return policy.low + (np.clip(x, -1, 1) + 1) / 2 * (policy.high - policy.low).astype(np.float64)


def denoised_of(policy: SmallPolicy, observation: Array, noise: Array) -> Array:
    """[N, act] of the diffusion policy in the robot's units, from one raw observation [obs] and noise [N, T·act]."""
    x, *added = np.split(noise.astype(np.float64), len(BETAS), axis=1)
    seen = np.tile(normalized(policy, observation.astype(np.float64)), (len(x), 1))
    for (time, factor, divisor, spread), z in zip(denoising_numbers(), [*added, 0.0], strict=True):
        rows = np.concatenate([seen, x, np.full((len(x), 1), time)], axis=1)
        x = np.clip((x - factor * perceptron(policy.positive, rows)) / divisor + spread * z, -1, 1)
    return policy.low + (x + 1) / 2 * (policy.high - policy.low).astype(np.float64)


def denoising_numbers() -> Array:
    """Of the steps from the first to the last: t, and the factors β/√(1 − ᾱ), √(1 − β) and √β (the last: 0), [T, 4]."""
    betas, kept = np.array(BETAS), np.cumprod(1 - np.array(BETAS))
    times = np.arange(1, len(betas) + 1)
    return np.stack([times, betas / np.sqrt(1 - kept), np.sqrt(1 - betas), np.sqrt(betas) * (times > 1)], axis=1)[::-1]


def action_of(policy: SmallPolicy, observation: Array) -> Array:
    """[act] of the deterministic policy, in the robot's units, from one raw observation [obs]."""
    x = perceptron(policy.deterministic, normalized(policy, observation.astype(np.float64))[None])[0]
    return policy.low + (np.clip(x, -1, 1) + 1) / 2 * (policy.high - policy.low).astype(np.float64)


def q_of(policy: SmallPolicy, observation: Array, actions: Array) -> Array:
    """[N] from one raw observation and actions [N, act] in the robot's units."""
    scaled = (actions - policy.low) / (policy.high - policy.low) * 2 - 1
    seen = np.tile(normalized(policy, observation.astype(np.float64)), (len(actions), 1))
    rows = np.concatenate([seen, scaled], axis=1)
    return np.min([perceptron(layers, rows)[:, 0] for layers in policy.critics], axis=0)


def make_vectors(
    policy: SmallPolicy, count: int = 3, seed: int = 1, form: str = "pair", seen: Array | None = None
) -> Vectors:
    """The trainer's, by the mathematics above.

    :param seen: flat observations [count, obs]; None: random ones.
    """
    rng = np.random.default_rng(seed)
    is_pair = form == "pair"
    each = policy.omegas if is_pair else (0.0,)
    width = policy.sizes.action * (1 if is_pair else len(BETAS))
    observations = rng.normal(size=(count, policy.sizes.observation)).astype(np.float32)
    observations = observations if seen is None else seen
    noise = rng.normal(size=(count, policy.sizes.candidates, width)).astype(np.float32)
    candidates = np.array(
        [
            [
                candidates_of(policy, observation, start, omega) if is_pair else denoised_of(policy, observation, start)
                for omega in each
            ]
            for observation, start in zip(observations, noise, strict=True)
        ]
    )
    q = np.array(
        [
            [q_of(policy, observation, actions) for actions in of_omegas]
            for observation, of_omegas in zip(observations, candidates, strict=True)
        ]
    )
    omegas = np.array(each, np.float32)
    return Vectors(observations, noise, omegas, candidates.astype(np.float32), q.astype(np.float32))


def make_action_vectors(policy: SmallPolicy, count: int = 3, seed: int = 1, seen: Array | None = None) -> ActionVectors:
    """The deterministic trainer's, by the mathematics above; ``seen`` as for :func:`make_vectors`."""
    observations = np.random.default_rng(seed).normal(size=(count, policy.sizes.observation)).astype(np.float32)
    observations = observations if seen is None else seen
    actions = np.array([action_of(policy, observation) for observation in observations])
    q = np.array([q_of(policy, *pair)[0] for pair in zip(observations, actions[:, None], strict=True)])
    return ActionVectors(observations, actions.astype(np.float32), q.astype(np.float32))


class Graph:
    """Nodes and weights of a graph in the making."""

    def __init__(self, prefix: str = "") -> None:
        self._prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._count = 0

    def weight(self, value: Any, dtype: Any = np.float32) -> str:
        self._count += 1
        self.weights.append(numpy_helper.from_array(np.array(value, dtype), f"{self._prefix}w{self._count}"))
        return self.weights[-1].name

    def add(self, operator: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        self._count += 1
        output = to or f"{self._prefix}v{self._count}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def normalized(self, policy: SmallPolicy, observation: str) -> str:
        centred = self.add("Sub", observation, self.weight(policy.mean))
        scaled = self.add("Div", centred, self.weight(policy.std))
        clip = self.weight(policy.clip)
        return self.add("Max", self.add("Min", scaled, clip), self.add("Neg", clip))

    def perceptron(self, layers: Layers, x: str) -> str:
        for depth, (weight, bias) in enumerate(layers):
            x = self.add("Gemm", x, self.weight(weight), self.weight(bias))
            if depth < len(layers) - 1:
                x = self.add("Gelu", x, approximate="tanh")
        return x

    def smaller_q(self, policy: SmallPolicy, seen: str, actions: str, to: str | None = None) -> str:
        """[rows] from normalised observations and actions in the robot's units, both with rows."""
        share = self.add(
            "Div", self.add("Sub", actions, self.weight(policy.low)), self.weight(policy.high - policy.low)
        )
        scaled = self.add("Sub", self.add("Mul", share, self.weight(2.0)), self.weight(1.0))
        rows = self.add("Concat", seen, scaled, axis=1)
        both = [self.perceptron(layers, rows) for layers in policy.critics]
        return self.add("Squeeze", self.add("Min", *both), self.weight([1], np.int64), to=to)

    def unscaled(self, policy: SmallPolicy, x: str) -> str:
        clipped = self.add("Clip", x, self.weight(-1.0), self.weight(1.0))
        share = self.add("Mul", self.add("Add", clipped, self.weight(1.0)), self.weight((policy.high - policy.low) / 2))
        robot = self.add("Add", share, self.weight(policy.low))
        return self.add("Max", self.add("Min", robot, self.weight(policy.high)), self.weight(policy.low))

    def model(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "g", values(inputs), values(outputs), self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def values(shapes: Mapping[str, Any]) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]


def velocity_model(policy: SmallPolicy, layers: Layers) -> onnx.ModelProto:
    graph = Graph()
    rows = graph.add("Concat", graph.normalized(policy, "observation"), "action_t", "time", axis=1)
    graph.add("Identity", graph.perceptron(layers, rows), to="velocity")
    observation, action = policy.sizes.observation, policy.sizes.action
    return graph.model(
        {"observation": ["B", observation], "action_t": ["B", action], "time": ["B", 1]}, {"velocity": ["B", action]}
    )


def critic_model(policy: SmallPolicy) -> onnx.ModelProto:
    graph = Graph()
    graph.smaller_q(policy, graph.normalized(policy, "observation"), "action", to="q")
    return graph.model(
        {"observation": ["B", policy.sizes.observation], "action": ["B", policy.sizes.action]}, {"q": ["B"]}
    )


def predictor_model(policy: SmallPolicy) -> onnx.ModelProto:
    graph, sizes = Graph(), policy.sizes
    rows = graph.add("Concat", graph.normalized(policy, "observation"), "action_t", "step", axis=1)
    graph.add("Identity", graph.perceptron(policy.positive, rows), to="noise")
    return graph.model(
        {"observation": ["B", sizes.observation], "action_t": ["B", sizes.action], "step": ["B", 1]},
        {"noise": ["B", sizes.action]},
    )


def flow_body(policy: SmallPolicy) -> tuple[Graph, onnx.GraphProto]:
    """One step of the flow: x and t → the next x."""
    sizes, body = policy.sizes, Graph("body_")
    rows = body.add("Concat", "seen_rows", "x", body.add("Mul", "ones", "t"), axis=1)
    push = body.add("Mul", body.add("Add", "omega_rows", body.weight(1.0)), body.perceptron(policy.positive, rows))
    pull = body.add("Mul", "omega_rows", body.perceptron(policy.negative, rows))
    step = body.add("Div", body.add("Sub", push, pull), body.weight(float(sizes.steps)))
    body.add("Add", "x", step, to="x_next")
    inputs = values({"x": ["M", sizes.action], "t": []})
    return body, helper.make_graph(body.nodes, "body", inputs, values({"x_next": ["M", sizes.action]}))


def denoising_body(policy: SmallPolicy) -> tuple[Graph, onnx.GraphProto]:
    """One denoising step: x, its four numbers and z → the next x."""
    sizes, body = policy.sizes, Graph("body_")
    rows = body.add("Concat", "seen_rows", "x", body.add("Mul", "ones", "t"), axis=1)
    less = body.add("Sub", "x", body.add("Mul", "factor", body.perceptron(policy.positive, rows)))
    x = body.add("Add", body.add("Div", less, "divisor"), body.add("Mul", "spread", "z"))
    body.add("Clip", x, body.weight(-1.0), body.weight(1.0), to="x_next")
    shapes: dict[str, Any] = {"x": ["M", sizes.action], "t": [], "factor": [], "divisor": [], "spread": []}
    inputs = values({**shapes, "z": ["M", sizes.action]})
    return body, helper.make_graph(body.nodes, "body", inputs, values({"x_next": ["M", sizes.action]}))


def guided_model(policy: SmallPolicy, form: str = "pair") -> onnx.ModelProto:
    """One Scan over the steps; rows are ordered ω by ω."""
    sizes, is_pair = policy.sizes, form == "pair"
    body, scan_body = (flow_body if is_pair else denoising_body)(policy)
    graph = Graph()
    count = graph.add("Shape", "noise", start=0, end=1)
    omegas = graph.add("Shape", "omega", start=0, end=1)
    one = graph.weight([1], np.int64)
    start = graph.add("Tile", "noise", graph.add("Concat", omegas, one, axis=0))
    column = graph.add("Unsqueeze", "omega", graph.weight([1], np.int64))
    by_candidate = graph.add("Tile", column, graph.add("Concat", one, count, axis=0))
    graph.add("Reshape", by_candidate, graph.weight([-1, 1], np.int64), to="omega_rows")
    graph.add("Sub", "omega_rows", "omega_rows", to="zeros")
    graph.add("Add", "zeros", graph.weight(1.0), to="ones")
    total = graph.add("Shape", start, start=0, end=1)
    seen = graph.normalized(policy, "observation")
    graph.add("Tile", seen, graph.add("Concat", total, one, axis=0), to="seen_rows")
    if is_pair:
        of_steps = [graph.weight(np.arange(sizes.steps) / sizes.steps)]
    else:
        parts = graph.add("Reshape", start, graph.weight([-1, len(BETAS), sizes.action], np.int64))
        by_step = graph.add("Transpose", parts, perm=[1, 0, 2])
        start = graph.add("Gather", by_step, graph.weight(0, np.int64), axis=0)
        # The last step adds none of what it is given.
        added = graph.add("Gather", by_step, graph.weight([*range(1, len(BETAS)), 0], np.int64), axis=0)
        of_steps = [*map(graph.weight, denoising_numbers().T), added]
    final = graph.add("Scan", start, *of_steps, body=scan_body, num_scan_inputs=len(of_steps))
    candidates = graph.unscaled(policy, final)
    flat_q = graph.smaller_q(policy, "seen_rows", candidates)
    shape = graph.add("Concat", omegas, count, axis=0)
    graph.add("Reshape", flat_q, shape, to="q")
    best = graph.add("ArgMax", "q", axis=1, keepdims=0)
    stacked = graph.add(
        "Reshape", candidates, graph.add("Concat", shape, graph.weight([sizes.action], np.int64), axis=0)
    )
    # [W, 1] indices pick one candidate in each of the W rows.
    picked = graph.add("GatherND", stacked, graph.add("Unsqueeze", best, graph.weight([1], np.int64)), batch_dims=1)
    graph.add("Identity", picked, to="action")
    graph.weights += body.weights
    return graph.model(
        {
            "observation": [1, sizes.observation],
            "noise": ["N", sizes.action * (1 if is_pair else len(BETAS))],
            "omega": ["W"],
        },
        {"action": ["W", sizes.action], "q": ["W", "N"]},
    )


def deterministic_model(policy: SmallPolicy) -> onnx.ModelProto:
    graph = Graph()
    seen = graph.normalized(policy, "observation")
    actions = graph.unscaled(policy, graph.perceptron(policy.deterministic, seen))
    graph.add("Identity", actions, to="action")
    graph.smaller_q(policy, seen, actions, to="q")
    return graph.model(
        {"observation": ["B", policy.sizes.observation]}, {"action": ["B", policy.sizes.action], "q": ["B"]}
    )


def make_manifest(policy: SmallPolicy, files: Mapping[str, bytes]) -> Manifest:
    """Of a deterministic or a diffusion policy where the files are such a one's."""
    sizes = policy.sizes
    guidance = Guidance(sizes.steps, sizes.candidates, OmegaRange(0.5, -1.0, 4.0))
    if PREDICTOR in files:
        guidance = Guidance(len(BETAS), sizes.candidates, OmegaRange(0.0, 0.0, 0.0), BETAS)
    return Manifest(
        files={name: entry_of(content) for name, content in files.items() if name != MANIFEST},
        observation=ObservationSpec(
            sizes.observation, tuple(f"observation_{index}" for index in range(sizes.observation)), policy.parts
        ),
        action=ActionSpec(
            sizes.action,
            policy.action_shape,
            tuple(f"joint_{index}" for index in range(sizes.action)),
            tuple(map(float, policy.low)),
            tuple(map(float, policy.high)),
        ),
        guidance=None if DETERMINISTIC in files else guidance,
        precision="fp32",
        parity=Parity(1e-6, 1e-4, 1e-6, 1e-4),
        provenance=policy.provenance,
    )


def entry_of(content: bytes) -> FileEntry:
    return FileEntry(hashlib.sha256(content).hexdigest(), len(content))


def make_files(policy: SmallPolicy, vectors: Vectors | None = None) -> dict[str, bytes]:
    """The six files of a bundle."""
    files = {
        GUIDED: guided_model(policy).SerializeToString(deterministic=True),
        POSITIVE: velocity_model(policy, policy.positive).SerializeToString(deterministic=True),
        NEGATIVE: velocity_model(policy, policy.negative).SerializeToString(deterministic=True),
        CRITIC: critic_model(policy).SerializeToString(deterministic=True),
        VECTORS: (make_vectors(policy) if vectors is None else vectors).to_bytes(),
    }
    return {MANIFEST: make_manifest(policy, files).to_bytes(), **files}


def make_deterministic_files(policy: SmallPolicy) -> dict[str, bytes]:
    """The four files of a deterministic policy's bundle."""
    files = {
        DETERMINISTIC: deterministic_model(policy).SerializeToString(deterministic=True),
        CRITIC: critic_model(policy).SerializeToString(deterministic=True),
        VECTORS: make_action_vectors(policy).to_bytes(),
    }
    return {MANIFEST: make_manifest(policy, files).to_bytes(), **files}


def make_diffusion_files(policy: SmallPolicy) -> dict[str, bytes]:
    """The five files of a diffusion policy's bundle."""
    files = {
        GUIDED: guided_model(policy, "diffusion").SerializeToString(deterministic=True),
        PREDICTOR: predictor_model(policy).SerializeToString(deterministic=True),
        CRITIC: critic_model(policy).SerializeToString(deterministic=True),
        VECTORS: make_vectors(policy, form="diffusion").to_bytes(),
    }
    return {MANIFEST: make_manifest(policy, files).to_bytes(), **files}


def files_of(form: str, policy: SmallPolicy) -> dict[str, bytes]:
    """A bundle's files, of the policy in one of FORMS; a plan bundle has weights of its own."""
    if form == "plan":
        # It is built with the graphs of this module.
        from small_plans import SmallPlanner, make_plan_files

        return make_plan_files(SmallPlanner())
    makers = {"pair": make_files, "deterministic": make_deterministic_files, "diffusion": make_diffusion_files}
    return makers[form](policy)


def rehashed(files: Mapping[str, bytes], **changes: Any) -> dict[str, bytes]:
    """The files with a manifest that is consistent with them: what an attacker, or a careless tool, would write.

    :param changes: of the manifest; those of its guidance by their own names.
    """
    manifest = Manifest.from_bytes(files[MANIFEST], "the original")
    guided = {name: changes.pop(name) for name in ("flow_steps", "num_candidates", "omega", "betas") if name in changes}
    if guided:
        assert manifest.guidance is not None
        changes["guidance"] = replace(manifest.guidance, **guided)
    entries = {name: entry_of(content) for name, content in files.items() if name in manifest.data_files}
    manifest = replace(manifest, files=entries, **changes)
    return {**files, MANIFEST: manifest.to_bytes()}


def edited(files: Mapping[str, bytes], name: str, edit: Callable[[onnx.ModelProto], None]) -> dict[str, bytes]:
    """The files with one graph changed in place, and the manifest's hashes with it."""
    model = onnx.load_from_string(files[name])
    edit(model)
    return rehashed({**files, name: model.SerializeToString(deterministic=True)})


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """As any zip program writes them."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def written(files: Mapping[str, bytes], path: pathlib.Path) -> pathlib.Path:
    """The files as a directory."""
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def observation_and_noise(policy: SmallPolicy, seed: int, candidates: int = 3) -> tuple[Array, Array]:
    """Standard normal: [obs] and [N, act], float32."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=policy.sizes.observation).astype(np.float32),
        rng.normal(size=(candidates, policy.sizes.action)).astype(np.float32),
    )
