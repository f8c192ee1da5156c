"""Converts modules to the bytes of an ONNX file with PyTorch's exporter; optionally with weights in 8 bits."""

from __future__ import annotations

import inspect
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_ir
import torch
from dipole_runtime.manifest import IR_VERSION, OPSET
from onnx_ir.passes import common as passes
from torch import Tensor, nn

from dipole_export.rounding import Rounded


def to_onnx(module: nn.Module, inputs: Mapping[str, Tensor], outputs: Sequence[str], free: Mapping[str, str]) -> bytes:
    """Exports one graph; the same module gives the same bytes.

    The opset is the first that has a Gelu operator: with Gelu composed of elementary operators, the paper's networks
    take a fifth longer.

    :param module: called with the inputs in order.
    :param inputs: examples by name; variable sizes must be at least 2 here.
    :param outputs: names of the outputs.
    :param free: name of each input whose first size is variable → name of that size.
    :raises ValueError: the exporter cannot express the module.
    """
    sizes = {name: torch.export.Dim(name, min=1, max=65_536) for name in set(free.values())}
    dynamic: tuple[Any, ...] = tuple({0: sizes[free[name]]} if name in free else None for name in inputs)
    takes = inspect.signature(module.forward).parameters.values()
    if any(one.kind is inspect.Parameter.VAR_POSITIONAL for one in takes):
        dynamic = (dynamic,)
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_shapes=dynamic,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        raise ValueError(
            f"{type(module).__name__} cannot be expressed in ONNX: {_cause(error)}; a custom features extractor or "
            "activation_fn must consist of operations that torch.export and opset 20 know"
        ) from error
    assert program is not None
    return _written(program.model_proto)


def quantized(graph: bytes, layers: Mapping[str, Rounded]) -> bytes:
    """The same graph with some matrices in 8 bits, one scale per column; inputs and outputs of layers stay float.

    :param graph: bytes of an ONNX file.
    :param layers: name of a weight → its rounded form.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load_from_string(graph)
    # Nodes to leave out are given by name, so names must be unique; a graph and its Scan's body can use the same one.
    for index, node in enumerate(_nodes(model.graph)):
        node.name = f"node_{index}"
    with tempfile.TemporaryDirectory() as folder, _quiet():
        target = Path(folder) / "quantized.onnx"
        quantize_dynamic(
            model,
            target,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=_products_without(layers, model),
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"EnableSubgraph": True, "MatMulConstBOnly": True},
        )
        result = onnx.load(target)
    values = {tensor.name: tensor for tensor in result.graph.initializer}
    for name, layer in layers.items():
        for ending, array in (("quantized", layer.values), ("scale", layer.scale)):
            tensor = values[f"{name}_{ending}"]
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return _written(result)


def quantized_encoder(graph: bytes, examples: Sequence[Mapping[str, np.ndarray]]) -> bytes:
    """The same graph with convolutions and products in 8 bits, and what flows between them.

    Ranges are the smallest and largest values that the examples give. Weights have 7 of the 8 bits: processors without
    VNNI add the products of two neighbours in 16 bits, which 8 would overflow.

    :param graph: bytes of an ONNX file whose pictures are resized in double precision, which stays as it is.
    :param examples: inputs by name.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Examples(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(examples)

        def get_next(self) -> Mapping[str, np.ndarray] | None:
            return next(self.left, None)

    model = onnx.load_from_string(graph)
    doubles = {tensor.name for tensor in model.graph.initializer if tensor.data_type == onnx.TensorProto.DOUBLE}
    for index, node in enumerate(model.graph.node):
        node.name = f"node_{index}"
    resizing = [node.name for node in model.graph.node if doubles & set(node.input)]
    with tempfile.TemporaryDirectory() as folder, _quiet():
        source, target = (Path(folder) / f"{name}.onnx" for name in ("source", "quantized"))
        onnx.save(model, source)
        quantize_static(
            source,
            target,
            Examples(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            nodes_to_exclude=resizing,
            per_channel=True,
            reduce_range=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return _written(onnx.load(target))


def _products_without(layers: Mapping[str, Rounded], model: onnx.ModelProto) -> list[str]:
    """Names of the products that stay float, as they are after onnxruntime has split each Gemm into MatMul and Add."""
    products = [node for node in _nodes(model.graph) if node.op_type in ("Gemm", "MatMul")]
    others = [node for node in products if node.input[1] not in layers]
    return [f"{node.name}_MatMul" if node.op_type == "Gemm" else node.name for node in others]


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Every node, including those of subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _written(model: onnx.ModelProto) -> bytes:
    """The file's bytes: nodes sorted, without the exporter's notes about source files and unused nodes."""
    intermediate = onnx_ir.from_proto(model)
    tidy = onnx_ir.passes.Sequential(
        passes.RemoveUnusedNodesPass(), passes.TopologicalSortPass(), passes.ClearMetadataAndDocStringPass()
    )
    tidied = onnx_ir.to_proto(tidy(intermediate).model)
    tidied.ir_version = IR_VERSION
    tidied.producer_name = tidied.producer_version = ""
    del tidied.metadata_props[:]
    del tidied.graph.value_info[:]
    onnx.checker.check_model(tidied)
    data: bytes = tidied.SerializeToString(deterministic=True)
    return data


def _cause(error: BaseException) -> str:
    """The first line of the original error, from the exporter's long message."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


@contextmanager
def _quiet() -> Iterator[None]:
    """Hides the messages of exporter and quantiser, which matter neither for the model nor for the user."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
