"""Graphs made to harm, in bundles whose manifests and hashes are right: each is refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from dipole_runtime import Bundle, GuidedPolicy, GuidedPolicyError
from dipole_runtime.graphs import require_graph
from dipole_runtime.manifest import GUIDED, MANIFEST, POSITIVE, VECTORS, Manifest
from onnx import TensorProto, helper, numpy_helper
from runtime_helpers import assert_one_sentence, field, refusal_of, refusal_of_structure, with_more
from small_bundles import NETWORKS_OF_FORMS, PAIR_NETWORKS, SmallPolicy, edited, files_of, rehashed, values

Files = dict[str, bytes]


Edit = Callable[[onnx.ModelProto], None]


def weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [one for one in model.graph.initializer if one.data_type == TensorProto.FLOAT and len(one.dims) == 2]


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


def test_a_field_in_the_wrong_encoding(files: Files) -> None:
    """Parsers skip it, as if the node had no operator."""
    fixed = bytes([4 << 3 | 5]) + b"Relu"
    data = with_more(files[POSITIVE], field(1, fixed))
    assert onnx.load_from_string(data).graph.node[-1].op_type == ""
    refusal_of_structure(rehashed({**files, POSITIVE: data}), POSITIVE, "not an ONNX model, or a damaged one")


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

    def test_in_an_initializer(self, any_files: Files) -> None:
        for name in any_files.keys() - {MANIFEST, VECTORS}:
            refusal_of_structure(
                edited(any_files, name, lambda model: outside(weights(model)[0])), name, "outside the file"
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
    @pytest.mark.parametrize(("form", "name"), NETWORKS_OF_FORMS)
    def test_not_finite(self, small: SmallPolicy, form: str, name: str, value: float) -> None:
        files = files_of(form, small)

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

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize(("form", "name"), NETWORKS_OF_FORMS)
    def test_of_a_graph(self, small: SmallPolicy, form: str, name: str, capfd: pytest.CaptureFixture[str]) -> None:
        """One sentence, or a graph that passes for the trainer's; never anything else, and nothing printed."""
        files = files_of(form, small)
        rng = np.random.default_rng(3)
        for _ in range(60):
            data = bytearray(files[name])
            for _ in range(int(rng.integers(1, 4))):
                data[int(rng.integers(len(data)))] = int(rng.integers(256))
            try:
                GuidedPolicy.from_bundle(Bundle.from_files(rehashed({**files, name: bytes(data)}), "robot's bundle"))
            except GuidedPolicyError as error:
                assert_one_sentence(error, "robot's bundle")
        assert capfd.readouterr() == ("", "")

    def test_names_that_are_no_text(self, files: Files, capfd: pytest.CaptureFixture[str]) -> None:
        """ONNX Runtime's Python code stumbles over them, says so on stdout and tries again."""
        for name in PAIR_NETWORKS:
            weight = weights(onnx.load_from_string(files[name]))[0].name.encode()
            data = files[name].replace(weight, weight[:-1] + b"\xff")
            refusal_of(rehashed({**files, name: data}), name)
        assert capfd.readouterr() == ("", "")

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize(("form", "name"), NETWORKS_OF_FORMS)
    def test_weights_whose_results_are_infinite(self, small: SmallPolicy, form: str, name: str) -> None:
        files = files_of(form, small)

        def edit(model: onnx.ModelProto) -> None:
            for tensor in model.graph.initializer:
                if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2:
                    tensor.raw_data = np.full(tensor.dims, 3e38, np.float32).tobytes()

        refusal_of(edited(files, name, edit), "error", "expected at most")

    def test_of_the_test_vectors(self, any_files: Files) -> None:
        rng = np.random.default_rng(4)
        for _ in range(100):
            data = bytearray(any_files[VECTORS])
            data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
            try:
                changed = rehashed({**any_files, VECTORS: bytes(data)})
                GuidedPolicy.from_bundle(Bundle.from_files(changed, "robot's bundle"))
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
        refusal_of(edited(files, GUIDED, edit), GUIDED, "terminate")
