"""Checks a bundle's ONNX files before ONNX Runtime reads them: do they match the manifest, and are they harmless?

Only the structure is read, without the onnx package. The messages' field numbers are those of onnx.proto3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dipole_runtime.errors import GuidedPolicyError, shown
from dipole_runtime.manifest import (
    CRITIC,
    DETERMINISTIC,
    ENCODER,
    GUIDED,
    NEGATIVE,
    PLANNER,
    POSITIVE,
    PREDICTOR,
    SCENE_ENCODER,
    Manifest,
)
from dipole_runtime.pictures import EncoderSpec
from dipole_runtime.plan_spec import ACCELERATION, CAMERAS, COMMAND, HISTORY, NOISE_OF_POSE, POSE, VELOCITY, PlanSpec
from dipole_runtime.protobuf import FIXED32, FIXED64, Budget, Message

Shape = tuple[int | None, ...]
"""None: any size."""

# "*" marks fields that may be repeated. Fields that are not listed are refused: functions, training information, sparse
# initializers, quantization annotations, and everything about multiple devices.
_MODEL = {
    1: "ir_version",
    2: "producer_name",
    3: "producer_version",
    4: "domain",
    5: "model_version",
    6: "doc_string",
    7: "graph",
    8: "opset_import*",
    14: "metadata_props*",
}
_GRAPH = {
    1: "node*",
    2: "name",
    5: "initializer*",
    10: "doc_string",
    11: "input*",
    12: "output*",
    13: "value_info*",
    16: "metadata_props*",
}
_NODE = {
    1: "input*",
    2: "output*",
    3: "name",
    4: "op_type",
    5: "attribute*",
    6: "doc_string",
    7: "domain",
    9: "metadata_props*",
}
_ATTRIBUTE = {
    1: "name",
    2: "f",
    3: "i",
    4: "s",
    5: "t",
    6: "g",
    7: "floats*",
    8: "ints*",
    9: "strings*",
    13: "doc_string",
    20: "type",
}
_TENSOR = {
    1: "dims*",
    2: "data_type",
    4: "float_data*",
    5: "int32_data*",
    7: "int64_data*",
    8: "name",
    9: "raw_data",
    10: "double_data*",
    12: "doc_string",
    13: "external_data*",
    14: "data_location",
    16: "metadata_props*",
}
_VALUE_INFO = {1: "name", 2: "type", 3: "doc_string", 4: "metadata_props*"}
_TYPE = {1: "tensor_type", 6: "denotation"}
_TENSOR_TYPE = {1: "elem_type", 2: "shape"}
_SHAPE = {1: "dim*"}
_DIM = {1: "dim_value", 2: "dim_param", 3: "denotation"}
_OPSET = {1: "domain", 2: "version"}

_FLOAT, _UINT8, _INT64 = 1, 2, 7
# The ONNX element types that a policy needs, and the fields that hold their numbers if raw_data does not.
_ELEMENTS: dict[int, tuple[type[np.generic], str]] = {
    1: (np.float32, "float_data"),
    2: (np.uint8, "int32_data"),
    3: (np.int8, "int32_data"),
    6: (np.int32, "int32_data"),
    7: (np.int64, "int64_data"),
    9: (np.bool_, "int32_data"),
    10: (np.float16, "int32_data"),
    11: (np.float64, "double_data"),
}

# Operators whose run time is unbounded, or whose outputs do not depend on their inputs alone.
_REFUSED = {"Loop", "If", "SequenceMap", "Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike"} | {
    "RandomUniform",
    "RandomUniformLike",
}
_MAX_FIELDS = 400_000
_MAX_NODES = 20_000
_MAX_DEPTH = 2
_MAX_STRUCTURE = 2 << 20
"""Limit for the bytes of a file that are not raw numbers: small messages take much more memory once they are parsed."""


@dataclass(frozen=True)
class Signature:
    """Inputs and outputs of a graph: name → shape.

    :param elements: the ONNX element types of those that are not float32.
    """

    inputs: Mapping[str, Shape]
    outputs: Mapping[str, Shape]
    elements: Mapping[str, int] = field(default_factory=dict)


def expected_signatures(manifest: Manifest) -> dict[str, Signature]:
    """File name → the signature that its graph must have."""
    if manifest.plan is not None:
        return _plan_signatures(manifest, manifest.plan)
    encoder = {} if manifest.encoder is None else {ENCODER: _encoder_signature(manifest, manifest.encoder)}
    return encoder | _acting_signatures(manifest)


def _encoder_signature(manifest: Manifest, encoder: EncoderSpec) -> Signature:
    pictures: dict[str, Shape] = {
        name: (None, *picture.shape) for name, picture in zip(encoder.input_names, encoder.pictures, strict=True)
    }
    others: dict[str, Shape] = {"observation": (None, manifest.observation.size)} if manifest.observation.size else {}
    return Signature(pictures | others, {"features": (None, encoder.features)}, dict.fromkeys(pictures, _UINT8))


def _acting_signatures(manifest: Manifest) -> dict[str, Signature]:
    observation, action = manifest.seen_size, manifest.action.size
    critic = Signature({"observation": (None, observation), "action": (None, action)}, {"q": (None,)})
    if manifest.policy == "deterministic":
        acting = Signature({"observation": (None, observation)}, {"action": (None, action), "q": (None,)})
        return {DETERMINISTIC: acting, CRITIC: critic}
    guided = Signature(
        {"observation": (1, observation), "noise": (None, manifest.noise_size), "omega": (None,)},
        {"action": (None, action), "q": (None, None)},
    )
    if manifest.policy == "diffusion":
        predictor = Signature(
            {"observation": (None, observation), "action_t": (None, action), "step": (None, 1)},
            {"noise": (None, action)},
        )
        return {GUIDED: guided, PREDICTOR: predictor, CRITIC: critic}
    velocity = Signature(
        {"observation": (None, observation), "action_t": (None, action), "time": (None, 1)},
        {"velocity": (None, action)},
    )
    return {GUIDED: guided, POSITIVE: velocity, NEGATIVE: velocity, CRITIC: critic}


def _plan_signatures(manifest: Manifest, plan: PlanSpec) -> dict[str, Signature]:
    poses, tokens = manifest.action.size // POSE, (plan.tokens, plan.token_size)
    (history,) = (part.shape for part in manifest.observation.parts if part.key == HISTORY)
    encoder = Signature(
        {CAMERAS: (len(plan.cameras), *plan.picture_shape), VELOCITY: (2,), ACCELERATION: (2,), COMMAND: ()},
        {"tokens": tokens},
        {CAMERAS: _UINT8, COMMAND: _INT64},
    )
    planner = Signature(
        {"tokens": tokens, HISTORY: history, "noise": (poses, NOISE_OF_POSE), "omega": (None,)},
        {"plan": (None, poses, POSE)},
    )
    return {SCENE_ENCODER: encoder, PLANNER: planner}


def require_graph(name: str, data: bytes, manifest: Manifest) -> None:
    """Refuses an ONNX file that is not the named network of this manifest, or that could do more than compute.

    :param name: one of the manifest's network files.
    :param data: the whole file.
    :param manifest: manifest of the bundle.
    :raises GuidedPolicyError: a different signature, opset or IR version; operators that are not standard, that loop
        without bound or that draw random numbers; weights outside the file, of another length than stated, NaN or
        infinite; a deterministic policy with other bounds than the manifest's.
    """
    try:
        contents = _require_model(memoryview(data), manifest, expected_signatures(manifest)[name])
        if name == DETERMINISTIC:
            _require_bounds(contents.vectors, manifest)
    except GuidedPolicyError as error:
        raise GuidedPolicyError(f"{name}: {error}") from error.__cause__


def _require_model(data: memoryview, manifest: Manifest, signature: Signature) -> _Contents:
    budget = Budget(_MAX_FIELDS)
    model = Message(data, _MODEL, "the model", budget)
    opsets = [Message(entry, _OPSET, "an opset", budget) for entry in model.all("opset_import")]
    versions = {(_standard(entry.text("domain")), entry.number("version")) for entry in opsets}
    if versions != {("", manifest.opset)}:
        found = ", ".join(f"{domain or 'ai.onnx'} {version}" for domain, version in sorted(versions)) or "none"
        raise GuidedPolicyError(f"found the opsets {shown(found)}, expected ai.onnx {manifest.opset} alone")
    if model.number("ir_version") != manifest.ir_version:
        raise GuidedPolicyError(
            f"found IR version {model.number('ir_version')}, expected {manifest.ir_version} as in the manifest"
        )
    graph = Message(model.blob("graph"), _GRAPH, "the graph", budget)
    _require_values("input", graph.all("input"), signature.inputs, signature.elements, budget)
    _require_values("output", graph.all("output"), signature.outputs, signature.elements, budget)
    contents = _Contents(budget, manifest.action.size)
    contents.read(graph, depth=0, inside_scan=False)
    if len(data) - contents.numbers > _MAX_STRUCTURE:
        raise GuidedPolicyError(
            f"has {len(data) - contents.numbers} bytes besides its weights, expected at most {_MAX_STRUCTURE}"
        )
    return contents


def _require_bounds(vectors: Sequence[NDArray[np.float32]], manifest: Manifest) -> None:
    """Refuses bounds in the manifest that the graph does not hold.

    Errors are shares of the range, so a range that is too wide makes every error small. The two networks of a pair are
    scaled by the manifest's bounds and so show the difference; a deterministic policy has no second path to its action.
    """
    for name in ("low", "high"):
        bounds = np.array(getattr(manifest.action, name), np.float64)
        if not any(np.array_equal(vector, bounds) for vector in vectors):
            raise GuidedPolicyError(f"does not hold the manifest's action.{name}, expected it among its constants")


def _require_values(
    kind: str,
    entries: Sequence[memoryview],
    expected: Mapping[str, Shape],
    elements: Mapping[str, int],
    budget: Budget,
) -> None:
    values = [Message(entry, _VALUE_INFO, f"an {kind}", budget) for entry in entries]
    names = [value.text("name") for value in values]
    if sorted(names) != sorted(expected):
        raise GuidedPolicyError(f"has the {kind}s {shown(', '.join(names))}, expected {', '.join(expected)}")
    for name, value in zip(names, values, strict=True):
        kind_of_value = Message(value.blob("type"), _TYPE, name, budget)
        tensor = Message(kind_of_value.blob("tensor_type"), _TENSOR_TYPE, name, budget)
        element = elements.get(name, _FLOAT)
        if tensor.number("elem_type") != element:
            expected_type = f"{np.dtype(_ELEMENTS[element][0])} ({element})"
            raise GuidedPolicyError(
                f"{kind} {name} has element type {tensor.number('elem_type')}, expected {expected_type}"
            )
        shape_of_tensor = Message(tensor.blob("shape"), _SHAPE, name, budget)
        dims = [Message(dim, _DIM, name, budget) for dim in shape_of_tensor.all("dim")]
        shape = tuple(dim.number("dim_value") if "dim_value" in dim else None for dim in dims)
        if shape != expected[name]:
            raise GuidedPolicyError(f"{kind} {name} has shape {_words(shape)}, expected {_words(expected[name])}")


def _words(shape: Shape) -> str:
    return f"[{', '.join('any' if size is None else shown(size) for size in shape)}]"


def _standard(domain: str) -> str:
    return "" if domain == "ai.onnx" else domain


class _Contents:
    """Walks through a graph and its subgraphs; counts nodes and the bytes of raw numbers.

    :param size: length of the float32 constants to keep in ``vectors``.
    """

    def __init__(self, budget: Budget, size: int) -> None:
        self._budget = budget
        self._size = size
        self.nodes = 0
        self.numbers = 0
        self.vectors: list[NDArray[np.float32]] = []

    def read(self, graph: Message, depth: int, inside_scan: bool) -> None:
        if depth > _MAX_DEPTH:
            raise GuidedPolicyError(f"has graphs inside graphs, deeper than {_MAX_DEPTH}")
        for entry in graph.all("initializer"):
            self._tensor(entry)
        for entry in graph.all("node"):
            self.nodes += 1
            if self.nodes > _MAX_NODES:
                raise GuidedPolicyError(f"has more than {_MAX_NODES} nodes")
            self._node(Message(entry, _NODE, "a node", self._budget), depth, inside_scan)

    def _node(self, node: Message, depth: int, inside_scan: bool) -> None:
        operator, domain = node.text("op_type"), node.text("domain")
        if _standard(domain):
            raise GuidedPolicyError(f"has the operator {shown(f'{domain}.{operator}')}, expected ONNX's own alone")
        if operator in _REFUSED or (operator == "Scan" and inside_scan):
            raise GuidedPolicyError(f"has the operator {operator}, which a policy of bounded time and memory needs not")
        for entry in node.all("attribute"):
            attribute = Message(entry, _ATTRIBUTE, f"an attribute of {shown(operator)}", self._budget)
            if "t" in attribute:
                self._tensor(attribute.blob("t"))
            if "g" in attribute:
                body = Message(attribute.blob("g"), _GRAPH, "a subgraph", self._budget)
                self.read(body, depth + 1, inside_scan or operator == "Scan")
            values = attribute.joined("f", FIXED32) + attribute.joined("floats", FIXED32)
            _require_finite(np.frombuffer(values, np.dtype("<f4")), f"an attribute of {shown(operator)}")

    def _tensor(self, data: memoryview) -> None:
        tensor = Message(data, _TENSOR, "a tensor", self._budget)
        name = shown(tensor.text("name"))
        if "external_data" in tensor or tensor.number("data_location"):
            raise GuidedPolicyError(f"the tensor {name} keeps its data outside the file, expected it inside")
        kind = tensor.number("data_type")
        if kind not in _ELEMENTS:
            raise GuidedPolicyError(f"the tensor {name} has element type {kind}, expected one of {sorted(_ELEMENTS)}")
        dtype, field = _ELEMENTS[kind]
        dims = tensor.numbers("dims")
        others = [other for other in ("float_data", "int32_data", "int64_data", "double_data") if other in tensor]
        if others not in ([], [field]) or (others and "raw_data" in tensor):
            raise GuidedPolicyError(f"the tensor {name} has its data twice")
        found: np.ndarray[tuple[int], np.dtype[np.generic]]
        raw = tensor.blob("raw_data")
        size = np.dtype(dtype).itemsize
        if "raw_data" in tensor:
            self.numbers += len(raw)
            found = np.frombuffer(raw[: len(raw) // size * size], dtype)
            exact = len(raw) % size == 0
        else:
            found, exact = _typed(tensor, field, dtype), True
        if min(dims, default=0) < 0 or math.prod(dims) != len(found) or not exact:
            raise GuidedPolicyError(f"the tensor {name} claims {_words(tuple(dims))} elements, found {len(found)}")
        if np.issubdtype(found.dtype, np.floating):
            _require_finite(found, f"the tensor {name}")
        if kind == _FLOAT and len(found) == self._size:
            self.vectors.append(found.astype(np.float32))


def _typed(tensor: Message, field: str, dtype: type[np.generic]) -> np.ndarray[tuple[int], np.dtype[np.generic]]:
    if field == "float_data":
        return np.frombuffer(tensor.joined(field, FIXED32), np.dtype("<f4"))
    if field == "double_data":
        return np.frombuffer(tensor.joined(field, FIXED64), np.dtype("<f8"))
    numbers = np.array(tensor.numbers(field), np.int64)
    # Half-precision numbers are stored as their bits.
    return numbers.astype(np.uint16).view(np.float16) if dtype is np.float16 else numbers


def _require_finite(values: np.ndarray[tuple[int], np.dtype[np.generic]], what: str) -> None:
    if not np.isfinite(values).all():
        raise GuidedPolicyError(f"{what} holds NaN or infinity, expected finite numbers")
