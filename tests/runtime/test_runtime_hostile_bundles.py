"""Bundles made to harm: consistent manifests, right hashes, and graphs or archives that ask for too much.

None may read a file outside, take a gigabyte of memory, run for ever, or leave the package as anything but one
sentence.
"""

from __future__ import annotations

import io
import pathlib
import struct
import time
import zipfile
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
import pytest
from dipole_runtime import Bundle, GuidedPolicy, GuidedPolicyError
from dipole_runtime.archive import Archive, archive_bytes
from dipole_runtime.graphs import require_graph
from dipole_runtime.manifest import CRITIC, GUIDED, MANIFEST, NETWORK_FILES, POSITIVE, VECTORS, Manifest
from onnx import TensorProto, helper, numpy_helper
from small_bundles import assert_one_sentence, edited, rehashed, run_python, values, zipped

Files = dict[str, bytes]
Edit = Callable[[onnx.ModelProto], None]

GIBIBYTE = 1 << 30


def refusal(files: Files, *words: str) -> str:
    with pytest.raises(GuidedPolicyError) as raised:
        GuidedPolicy.from_bundle(Bundle.from_files(files, "robot's bundle"))
    assert_one_sentence(raised.value, "robot's bundle", *words)
    return str(raised.value)


def refusal_of_structure(files: Files, *words: str) -> None:
    """Refused before ONNX Runtime sees it."""
    with pytest.raises(GuidedPolicyError) as raised:
        Bundle.from_files(files, "robot's bundle")
    assert_one_sentence(raised.value, "robot's bundle", *words)


def weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [one for one in model.graph.initializer if one.data_type == TensorProto.FLOAT and len(one.dims) == 2]


def value_changed(side: str, index: int, change: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        value = getattr(model.graph, side)[index]
        tensor = value.type.tensor_type
        if change == "name":
            value.name = "other"
        elif change == "type":
            tensor.elem_type = TensorProto.DOUBLE
        elif change == "rank":
            tensor.shape.dim.add().dim_value = 1
        elif change == "size":
            dim = tensor.shape.dim[-1]
            dim.dim_value = dim.dim_value + 1 if dim.HasField("dim_value") else 7
        else:
            value.ClearField("type")

    return edit


class TestSignatures:
    """Every name, rank, size and type of every input and output."""

    @pytest.mark.parametrize("change", ["name", "type", "rank", "size", "nothing known"])
    @pytest.mark.parametrize("side", ["input", "output"])
    @pytest.mark.parametrize("name", NETWORK_FILES)
    def test_each_is_checked(self, files: Files, name: str, side: str, change: str) -> None:
        for index in range(len(getattr(onnx.load_from_string(files[name]).graph, side))):
            refusal_of_structure(edited(files, name, value_changed(side, index, change)), name, side)

    def test_one_input_more(self, files: Files) -> None:
        def edit(model: onnx.ModelProto) -> None:
            model.graph.input.extend(values({"more": [1]}))

        refusal_of_structure(edited(files, GUIDED, edit), GUIDED, "inputs")

    def test_an_input_twice(self, files: Files) -> None:
        def edit(model: onnx.ModelProto) -> None:
            model.graph.input[1].CopyFrom(model.graph.input[0])

        refusal_of_structure(edited(files, GUIDED, edit), GUIDED, "inputs")


def set_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 21


def add_opset(model: onnx.ModelProto) -> None:
    model.opset_import.extend([helper.make_opsetid("com.microsoft", 1)])


def repeat_opset(model: onnx.ModelProto) -> None:
    model.opset_import.extend([helper.make_opsetid("ai.onnx", 12)])


def no_opset(model: onnx.ModelProto) -> None:
    model.ClearField("opset_import")


def set_ir_version(model: onnx.ModelProto) -> None:
    model.ir_version = 11


def custom_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.example"


def contributed_operator(model: onnx.ModelProto) -> None:
    model.graph.node[0].domain = "com.microsoft"


def function(model: onnx.ModelProto) -> None:
    body = [helper.make_node("Relu", ["x"], ["y"])]
    model.functions.append(helper.make_function("local", "F", ["x"], ["y"], body, [helper.make_opsetid("", 20)]))


def training_information(model: onnx.ModelProto) -> None:
    model.training_info.add()


def negative_sizes(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(onnx.TensorProto(dims=[-1, -1], data_type=1, raw_data=bytes(4), name="negative"))


def quantization(model: onnx.ModelProto) -> None:
    model.graph.quantization_annotation.add().tensor_name = "x"


def subgraph_of(operator: str) -> Edit:
    def edit(model: onnx.ModelProto) -> None:
        body = helper.make_graph([], "body", [], values({"x": [1]}), [numpy_helper.from_array(np.zeros(1, "f"), "x")])
        model.graph.node.append(helper.make_node(operator, ["x"], ["y"], body=body))

    return edit


def scan_in_scan(model: onnx.ModelProto) -> None:
    body(model).node.extend([node for node in model.graph.node if node.op_type == "Scan"])


def random_numbers(model: onnx.ModelProto) -> None:
    model.graph.node.append(helper.make_node("RandomNormal", [], ["y"], shape=[1]))


def graphs_in_graphs(model: onnx.ModelProto) -> None:
    graph = helper.make_graph([], "leaf", [], [])
    for _ in range(20):
        graph = helper.make_graph([helper.make_node("Relu", [], [], body=graph)], "g", [], [])
    model.graph.node.extend(graph.node)


class TestStructure:
    @pytest.mark.parametrize(
        ("edit", "words"),
        [
            (set_opset, "opset"),
            (add_opset, "com.microsoft"),
            (repeat_opset, "opset"),
            (no_opset, "opset"),
            (set_ir_version, "IR version 11"),
            (custom_operator, "com.example"),
            (contributed_operator, "com.microsoft"),
            (function, "field 25"),
            (training_information, "field 20"),
            (quantization, "field 14"),
            (negative_sizes, "claims [-1, -1] elements"),
            (subgraph_of("Loop"), "Loop"),
            (subgraph_of("If"), "If"),
            (subgraph_of("SequenceMap"), "SequenceMap"),
            (random_numbers, "RandomNormal"),
            (scan_in_scan, "Scan"),
            (graphs_in_graphs, "graphs inside graphs"),
        ],
        ids=lambda one: getattr(one, "__name__", ""),
    )
    def test_it_is_named(self, files: Files, edit: Edit, words: str) -> None:
        refusal_of_structure(edited(files, GUIDED, edit), GUIDED, words)

    def test_operators_of_the_loops_body_are_checked_too(self, files: Files) -> None:
        def edit(model: onnx.ModelProto) -> None:
            body(model).node[0].domain = "com.example"

        refusal_of_structure(edited(files, GUIDED, edit), GUIDED, "com.example")

    def test_very_many_nodes(self, files: Files) -> None:
        def edit(model: onnx.ModelProto) -> None:
            model.graph.node.extend([helper.make_node("Relu", ["x"], ["y"])] * 20_001)

        refusal_of_structure(edited(files, GUIDED, edit), GUIDED, "20000 nodes")

    def test_very_much_that_is_no_weight(self, files: Files) -> None:
        def edit(model: onnx.ModelProto) -> None:
            model.doc_string = "x" * (3 << 20)

        refusal_of_structure(edited(files, GUIDED, edit), GUIDED, "besides its weights")

    @pytest.mark.parametrize("field", ["graph", "ir_version"])
    def test_a_field_twice(self, files: Files, field: str) -> None:
        """Parsers would merge the graphs, and take the last of the versions."""
        again = onnx.ModelProto()
        if field == "graph":
            again.graph.doc_string = "again"
        else:
            again.ir_version = 10
        data = files[POSITIVE] + again.SerializeToString()
        refusal_of_structure(rehashed({**files, POSITIVE: data}), POSITIVE, f"its {field} twice")

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\xff" * 40,
            b"\x3a\xff\xff\xff\xff\x0f",
            b"\x0b\x0c",
            b"\x08" + b"\x80" * 11 + b"\x01",
            b"\x42\x02\x10",
        ],
    )
    def test_what_is_no_model(self, files: Files, data: bytes) -> None:
        refusal_of_structure(rehashed({**files, POSITIVE: data or b"\n"}), POSITIVE)


def body(model: onnx.ModelProto) -> onnx.GraphProto:
    (scan,) = [node for node in model.graph.node if node.op_type == "Scan"]
    return next(attribute.g for attribute in scan.attribute if attribute.name == "body")


def outside(tensor: onnx.TensorProto) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "../../etc/passwd"), ("offset", "0"), ("length", "64")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


class TestExternalData:
    """Weights that would be read from other files."""

    def test_in_an_initializer(self, files: Files) -> None:
        for name in NETWORK_FILES:
            refusal_of_structure(
                edited(files, name, lambda model: outside(weights(model)[0])), name, "outside the file"
            )

    def test_the_location_alone_or_the_flag_alone(self, files: Files) -> None:
        def flag(model: onnx.ModelProto) -> None:
            weights(model)[0].data_location = TensorProto.EXTERNAL

        def location(model: onnx.ModelProto) -> None:
            weights(model)[0].external_data.add().key = "location"

        for edit in (flag, location):
            refusal_of_structure(edited(files, POSITIVE, edit), "outside the file")

    def test_in_an_attribute(self, files: Files) -> None:
        def edit(model: onnx.ModelProto) -> None:
            tensor = numpy_helper.from_array(np.zeros(16, "f"), "t")
            outside(tensor)
            model.graph.node.append(helper.make_node("Constant", [], ["c"], value=tensor))

        refusal_of_structure(edited(files, POSITIVE, edit), "outside the file")

    def test_in_a_subgraph(self, files: Files) -> None:
        def edit(model: onnx.ModelProto) -> None:
            tensor = numpy_helper.from_array(np.zeros(16, "f"), "t")
            outside(tensor)
            body(model).initializer.append(tensor)

        refusal_of_structure(edited(files, GUIDED, edit), "outside the file")

    def test_in_sparse_tensors_and_lists(self, files: Files) -> None:
        tensor = numpy_helper.from_array(np.zeros(16, "f"), "t")
        outside(tensor)
        sparse = helper.make_sparse_tensor(tensor, numpy_helper.from_array(np.arange(16), "i"), [32])

        def initializer(model: onnx.ModelProto) -> None:
            model.graph.sparse_initializer.append(sparse)

        def attribute(model: onnx.ModelProto) -> None:
            model.graph.node.append(helper.make_node("Constant", [], ["c"], sparse_value=sparse))

        def tensors(model: onnx.ModelProto) -> None:
            model.graph.node.append(helper.make_node("Constant", [], ["c"], value=[tensor]))

        for edit in (initializer, attribute, tensors):
            refusal_of_structure(edited(files, POSITIVE, edit), "which bundles do not use")


class TestWeights:
    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    @pytest.mark.parametrize("name", NETWORK_FILES)
    def test_not_finite(self, files: Files, name: str, value: float) -> None:
        def edit(model: onnx.ModelProto) -> None:
            for tensor in weights(model)[-1:]:
                array = numpy_helper.to_array(tensor).copy()
                array[-1, -1] = value
                tensor.raw_data = array.tobytes()

        refusal_of_structure(edited(files, name, edit), name, "NaN or infinity")

    def test_not_finite_in_any_encoding(self, files: Files) -> None:
        def as_numbers(model: onnx.ModelProto) -> None:
            tensor = helper.make_tensor("t", TensorProto.FLOAT, [2], [1.0, np.nan])
            model.graph.initializer.append(tensor)

        def half(model: onnx.ModelProto) -> None:
            model.graph.initializer.append(numpy_helper.from_array(np.array([np.inf], np.float16), "t"))

        def half_as_numbers(model: onnx.ModelProto) -> None:
            model.graph.initializer.append(helper.make_tensor("t", TensorProto.FLOAT16, [2], [1.0, np.nan]))

        def double(model: onnx.ModelProto) -> None:
            model.graph.initializer.append(helper.make_tensor("t", TensorProto.DOUBLE, [1], [np.nan]))

        def attribute(model: onnx.ModelProto) -> None:
            model.graph.node.append(helper.make_node("Constant", [], ["c"], value_float=float("nan")))

        def attributes(model: onnx.ModelProto) -> None:
            model.graph.node.append(helper.make_node("Constant", [], ["c"], value_floats=[1.0, float("inf")]))

        for edit in (as_numbers, half, half_as_numbers, double, attribute, attributes):
            refusal_of_structure(edited(files, POSITIVE, edit), "NaN or infinity")

    @pytest.mark.parametrize(
        "dims", [[1 << 40], [1 << 31, 1 << 31, 4], [-6, -8], [3], [], [1 << 62, 1 << 62], [0]], ids=str
    )
    def test_other_sizes_than_claimed(self, files: Files, dims: list[int]) -> None:
        def edit(model: onnx.ModelProto) -> None:
            tensor = weights(model)[0]
            tensor.ClearField("dims")
            tensor.dims.extend(dims)

        refusal_of_structure(edited(files, POSITIVE, edit), "claims")

    def test_half_a_number(self, files: Files) -> None:
        def edit(model: onnx.ModelProto) -> None:
            weights(model)[0].raw_data += b"\0\0"

        refusal_of_structure(edited(files, POSITIVE, edit), "claims")

    def test_numbers_twice(self, files: Files) -> None:
        def edit(model: onnx.ModelProto) -> None:
            weights(model)[0].float_data.append(1.0)

        refusal_of_structure(edited(files, POSITIVE, edit), "twice")

    def test_an_unknown_type(self, files: Files) -> None:
        def edit(model: onnx.ModelProto) -> None:
            model.graph.initializer.append(helper.make_tensor("t", TensorProto.STRING, [1], [b"x"]))

        refusal_of_structure(edited(files, POSITIVE, edit), POSITIVE)

    @pytest.mark.parametrize(
        "tensor",
        [
            helper.make_tensor("t", TensorProto.FLOAT, [2, 2], [1.0, 2.0, 3.0, 4.0]),
            helper.make_tensor("t", TensorProto.INT64, [3], [1, -2, 1 << 40]),
            helper.make_tensor("t", TensorProto.INT8, [3], [1, -2, 3]),
            helper.make_tensor("t", TensorProto.UINT8, [], [255]),
            helper.make_tensor("t", TensorProto.BOOL, [2], [True, False]),
            helper.make_tensor("t", TensorProto.DOUBLE, [1], [1e300]),
            helper.make_tensor("t", TensorProto.FLOAT16, [2], [1.0, -2.0]),
            numpy_helper.from_array(np.zeros((0, 3), np.float32), "t"),
        ],
        ids=lambda tensor: TensorProto.DataType.Name(tensor.data_type),
    )
    def test_what_other_tools_write_is_read(self, files: Files, tensor: onnx.TensorProto) -> None:
        """The control: encodings that the checks above must not refuse."""
        Bundle.from_files(edited(files, POSITIVE, lambda model: model.graph.initializer.append(tensor)), "good")


class TestDamageThatHashesDoNotSee:
    """Whoever can edit a bundle can also write its hashes."""

    @pytest.mark.parametrize("name", NETWORK_FILES)
    def test_of_a_graph(self, files: Files, name: str) -> None:
        """One sentence, or a graph that passes for the trainer's; never anything else."""
        rng = np.random.default_rng(3)
        for _ in range(60):
            data = bytearray(files[name])
            for _ in range(int(rng.integers(1, 4))):
                data[int(rng.integers(len(data)))] = int(rng.integers(256))
            try:
                GuidedPolicy.from_bundle(Bundle.from_files(rehashed({**files, name: bytes(data)}), "robot's bundle"))
            except GuidedPolicyError as error:
                assert_one_sentence(error, "robot's bundle")

    def test_of_the_test_vectors(self, files: Files) -> None:
        rng = np.random.default_rng(4)
        for _ in range(100):
            data = bytearray(files[VECTORS])
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
            try:
                GuidedPolicy.from_bundle(Bundle.from_files(rehashed({**files, VECTORS: bytes(data)}), "robot's bundle"))
            except GuidedPolicyError as error:
                assert_one_sentence(error, "robot's bundle")

    def test_the_check_and_onnx_see_the_same_graph(self, files: Files) -> None:
        """What the check accepts, the onnx package parses to the same structure."""
        manifest = Manifest.from_bytes(files[MANIFEST], "m")
        rng = np.random.default_rng(5)
        accepted = 0
        for _ in range(600):
            data = bytearray(files[POSITIVE])
            data[int(rng.integers(len(data)))] = int(rng.integers(256))
            try:
                require_graph(POSITIVE, bytes(data), manifest)
            except GuidedPolicyError:
                continue
            accepted += 1
            model = onnx.load_from_string(bytes(data))
            assert not list(model.DiscardUnknownFields() or [])
            assert all(node.domain in ("", "ai.onnx") for node in model.graph.node)
            assert all(not tensor.external_data for tensor in model.graph.initializer)
            for tensor in model.graph.initializer:
                assert np.isfinite(numpy_helper.to_array(tensor)).all()
        assert accepted > 50


class TestTestVectors:
    @pytest.mark.parametrize(
        ("header", "words"),
        [
            ("{'descr': '|O', 'fortran_order': False, 'shape': (4,), }", "float32"),
            ("{'descr': '<f8', 'fortran_order': False, 'shape': (4,), }", "float32"),
            ("{'descr': '>f4', 'fortran_order': False, 'shape': (4,), }", "float32"),
            ("{'descr': '<f4', 'fortran_order': True, 'shape': (4,), }", "float32"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-4,), }", "float32"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (__import__('os').system('x'),), }", "float32"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (999999999, 999999999), }", "claims shape"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "claims shape"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }", "omegas"),
        ],
    )
    def test_headers(self, files: Files, header: str, words: str) -> None:
        line = header.encode() + b" " * (-(len(header) + 11) % 64) + b"\n"
        omegas = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(line)) + line + bytes(16)
        refusal_of_structure(self.with_member(files, "omegas.npy", omegas), VECTORS, "omegas", words)

    def with_member(self, files: Files, name: str, content: bytes) -> Files:
        with zipfile.ZipFile(io.BytesIO(files[VECTORS])) as archive:
            members = {member: archive.read(member) for member in archive.namelist()}
        return rehashed({**files, VECTORS: archive_bytes({**members, name: content})})

    def arrays(self, files: Files) -> dict[str, Any]:
        with np.load(io.BytesIO(files[VECTORS])) as loaded:
            return dict(loaded)

    def saved(self, files: Files, **arrays: Any) -> Files:
        file = io.BytesIO()
        np.savez(file, **arrays)
        return rehashed({**files, VECTORS: file.getvalue()})

    def test_numpy_reads_ours_and_we_read_numpys(self, files: Files) -> None:
        arrays = self.arrays(files)
        bundle = Bundle.from_files(self.saved(files, **arrays), "good")
        for name, array in arrays.items():
            np.testing.assert_array_equal(getattr(bundle.vectors(), name), array)

    def test_pickles(self, files: Files) -> None:
        arrays = self.arrays(files)
        arrays["q"] = np.array([{"a": 1}], object)
        refusal_of_structure(self.saved(files, **arrays), VECTORS, "q is not a float32 array")

    def test_other_names(self, files: Files) -> None:
        arrays = self.arrays(files)
        refusal_of_structure(self.saved(files, **{**arrays, "more": arrays["q"]}), VECTORS, "6 entries")
        arrays["quality"] = arrays.pop("q")
        refusal_of_structure(self.saved(files, **arrays), VECTORS, "quality")

    @pytest.mark.parametrize("name", ["observations", "noise", "omegas", "candidates", "q"])
    def test_other_shapes_and_values(self, files: Files, name: str) -> None:
        arrays = self.arrays(files)
        refusal_of_structure(self.saved(files, **{**arrays, name: arrays[name][:-1]}), VECTORS, "shape")
        refusal_of_structure(self.saved(files, **{**arrays, name: arrays[name][..., None]}), VECTORS, "shape")
        refusal_of_structure(self.saved(files, **{**arrays, name: arrays[name][:0]}), VECTORS)
        bad = arrays[name].copy()
        bad.flat[0] = np.nan
        refusal_of_structure(self.saved(files, **{**arrays, name: bad}), VECTORS, name, "NaN")

    def test_no_vectors_at_all(self, files: Files) -> None:
        arrays = self.arrays(files)
        empty = {name: array if name == "omegas" else array[:0] for name, array in arrays.items()}
        refusal_of_structure(self.saved(files, **empty), VECTORS, "0 observations")


class TestTime:
    def test_a_graph_that_computes_for_ever_is_stopped(self, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
        def edit(model: onnx.ModelProto) -> None:
            """The flow has millions of steps more."""
            (scan,) = [node for node in model.graph.node if node.op_type == "Scan"]
            times = next(one for one in model.graph.initializer if one.name == scan.input[1])
            many = numpy_helper.from_array(np.array([4_000_000], np.int64), "many")
            model.graph.initializer.append(many)
            place = list(model.graph.node).index(scan)
            zero = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.0])
            endless = [
                helper.make_node("ConstantOfShape", ["many"], ["zeros_of_time"], value=zero),
                helper.make_node("Concat", [times.name, "zeros_of_time"], ["endless"], axis=0),
            ]
            scan.input[1] = "endless"
            nodes = [*model.graph.node[:place], *endless, *model.graph.node[place:]]
            model.graph.ClearField("node")
            model.graph.node.extend(nodes)

        monkeypatch.setattr("dipole_runtime.policy.LOAD_TIME_LIMIT", 0.5)
        started = time.perf_counter()
        refusal(edited(files, GUIDED, edit), GUIDED, "terminate")
        assert time.perf_counter() - started < 20


def constant_of(shape: Iterable[int], dynamic: bool) -> Edit:
    """Adds gigabytes of zeros to the observation, at a size known beforehand or only while running."""

    def edit(model: onnx.ModelProto) -> None:
        graph = model.graph
        graph.initializer.append(numpy_helper.from_array(np.array(list(shape), np.int64), "huge"))
        size = "huge"
        added = []
        if dynamic:
            added.append(helper.make_node("Shape", ["observation"], ["bomb_one"], start=0, end=1))
            added.append(helper.make_node("Mul", ["huge", "bomb_one"], ["bomb_size"]))
            size = "bomb_size"
        added += [
            helper.make_node("ConstantOfShape", [size], ["bomb"]),
            helper.make_node("ReduceSum", ["bomb"], ["bomb_sum"], keepdims=0),
            helper.make_node("Add", ["observation", "bomb_sum"], ["seen_bomb"]),
        ]
        for node in graph.node:
            for index, name in enumerate(node.input):
                if name == "observation":
                    node.input[index] = "seen_bomb"
        nodes = [*added, *graph.node]
        graph.ClearField("node")
        graph.node.extend(nodes)

    return edit


def bombs(files: Files) -> dict[str, bytes]:
    """.dipole files that would become large."""
    zeros = bytes(300 << 20)
    deflated = zipped({**files, CRITIC: zeros}, zipfile.ZIP_DEFLATED)
    result = {
        "constant": archive_bytes(edited(files, GUIDED, constant_of([2_000_000_000], dynamic=False))),
        "dynamic": archive_bytes(edited(files, GUIDED, constant_of([2_000_000_000], dynamic=True))),
        "dynamic network": archive_bytes(edited(files, POSITIVE, constant_of([1 << 20, 1 << 12], dynamic=True))),
        "dynamic critic": archive_bytes(edited(files, CRITIC, constant_of([1 << 40], dynamic=True))),
        "negative": archive_bytes(edited(files, GUIDED, constant_of([-(1 << 40)], dynamic=True))),
        "deflated": deflated,
        # Consistent: within what a bundle may have, and then no model.
        "deflated within limits": zipped(rehashed({**files, CRITIC: zeros[: 200 << 20]}), zipfile.ZIP_DEFLATED),
        "deflated vectors": archive_bytes(
            rehashed({**files, VECTORS: zipped({"q.npy": zeros[: 100 << 20]}, zipfile.ZIP_DEFLATED)})
        ),
    }
    with zipfile.ZipFile(io.BytesIO(files[VECTORS])) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    for name in ("observations.npy", "q.npy"):
        vectors = zipped({**members, name: zeros}, zipfile.ZIP_DEFLATED)
        result[f"deflated {name}"] = archive_bytes(rehashed({**files, VECTORS: vectors}))
    many = 8 << 20
    for name, more in (
        ("empty nodes", b"\x0a\x00" * many),
        ("empty attributes", field(1, b"\x2a\x00" * many)),
        ("packed numbers", field(5, field(7, bytes(many)) + b"\x10\x07")),
        ("packed sizes", field(5, field(1, bytes(many)) + b"\x10\x07")),
        ("long names", field(1, field(1, b"x" * many))),
    ):
        result[name] = zipped(rehashed({**files, POSITIVE: with_more(files[POSITIVE], more)}), zipfile.ZIP_DEFLATED)
    empty = rehashed({**files, POSITIVE: files[POSITIVE] + b"\x72\x00" * many})
    result["empty fields"] = zipped(empty, zipfile.ZIP_DEFLATED)
    result["overlapping members"] = overlapping(files)
    result["a million entries"] = million_entries()
    return result


def field(number: int, content: bytes) -> bytes:
    """A field of a protocol buffer that holds bytes."""
    size, length = len(content), b""
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def with_more(data: bytes, graph: bytes) -> bytes:
    """A model with more bytes in its graph."""
    model = onnx.load_from_string(data)
    whole = field(7, model.graph.SerializeToString() + graph)
    model.ClearField("graph")
    return model.SerializeToString() + whole


def overlapping(files: Files) -> bytes:
    """Every entry of the directory leads to the same member."""
    data = bytearray(zipped(files, zipfile.ZIP_DEFLATED))
    start = struct.unpack("<L", data[-6:-2])[0]
    entry = start
    while data[entry : entry + 4] == b"PK\x01\x02":
        struct.pack_into("<L", data, entry + 42, 0)
        name, extra, comment = struct.unpack_from("<3H", data, entry + 28)
        entry += 46 + name + extra + comment
    return bytes(data)


def million_entries() -> bytes:
    """Readers that believe the directory make a million objects of this."""
    entry = struct.pack("<4s6H3L5H2L", b"PK\x01\x02", *[0] * 9, 1, *[0] * 6) + b"x"
    directory = entry * 1_000_000
    return directory + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 6, 6, len(directory), 0, 0)


LOADER = """
import pathlib, sys
from dipole_runtime import GuidedPolicy, GuidedPolicyError
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        GuidedPolicy.load(path)
        print("loaded", path)
    except GuidedPolicyError as error:
        print(error)
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


class TestMemory:
    def test_bombs(self, files: Files, tmp_path: pathlib.Path) -> None:
        """All of them in one process, which stays under a gigabyte, and writes nothing."""
        for name, content in bombs(files).items():
            (tmp_path / f"{name}.dipole").write_bytes(content)
        before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
        result = run_python("-c", LOADER, str(tmp_path))
        assert result.returncode == 0, result.stderr
        assert result.stderr == ""
        *sentences, peak = result.stdout.splitlines()
        assert int(peak) << 10 < GIBIBYTE
        for path, sentence in zip(sorted(before), sentences, strict=True):
            assert_one_sentence(sentence, f"cannot load {path}: ")
        assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before

    def test_a_member_is_not_inflated_beyond_its_claim(self) -> None:
        data = bytearray(zipped({"a": bytes(1 << 20)}, zipfile.ZIP_DEFLATED))
        struct.pack_into("<L", data, data.index(b"PK\x01\x02") + 24, 10)
        archive = Archive(io.BytesIO(bytes(data)), ["a"])
        with pytest.raises(GuidedPolicyError, match="not as long as it says"):
            archive.read("a", 10)
