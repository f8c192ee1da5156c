"""Every name, rank, size and type of every input and output of a bundle's graphs is checked."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from dipole_runtime.manifest import GUIDED
from onnx import TensorProto
from runtime_helpers import refusal_of_structure
from small_bundles import NETWORKS_OF_FORMS, SmallPolicy, edited, files_of, values

Files = dict[str, bytes]
Edit = Callable[[onnx.ModelProto], None]


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
            # A number without dimensions gets one.
            dim = tensor.shape.dim[-1] if tensor.shape.dim else tensor.shape.dim.add()
            dim.dim_value = dim.dim_value + 1 if dim.HasField("dim_value") else 7
        else:
            value.ClearField("type")

    return edit


class TestSignatures:
    """Every name, rank, size and type of every input and output."""

    @pytest.mark.parametrize("change", ["name", "type", "rank", "size", "nothing known"])
    @pytest.mark.parametrize("side", ["input", "output"])
    @pytest.mark.parametrize(("form", "name"), NETWORKS_OF_FORMS)
    def test_each_is_checked(self, small: SmallPolicy, form: str, name: str, side: str, change: str) -> None:
        files = files_of(form, small)
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
