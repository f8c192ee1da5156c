"""``export_bundle`` beyond parity: the same bytes, what it refuses, and that nothing is half written."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from dipole_export import export_bundle, exporter, graphs
from dipole_export.exporter import Precision
from dipole_export.pair import ExportedPair
from dipole_export.rounding import rounded
from dipole_runtime import GuidedPolicy
from dipole_runtime.bundle import read_bundle
from dipole_runtime.manifest import GUIDED, IR_VERSION, MANIFEST, NETWORK_FILES, OPSET, VECTORS, OmegaRange
from dipole_runtime.tolerances import LARGEST_INT8_ERROR
from gymnasium import spaces
from models import make_model, model_of, unbounded
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from dipole_sb3 import DIPOLE

EXPORT_IN_ANOTHER_PROCESS = """
import sys
from dipole_export import exporter
from dipole_sb3 import DIPOLE
exporter.PARITY_OBSERVATIONS = 60
model, folder = sys.argv[1:]
paths = {precision: f"{folder}/{precision}.dipole" for precision in ("fp32", "int8")}
exporter.export_bundles(DIPOLE.load(model, device="cpu"), paths, max_int8_error=0.2)
"""

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")


def contents(path: Path) -> dict[str, bytes]:
    """The files of a bundle, folder or archive."""
    if path.is_dir():
        return {file.name: file.read_bytes() for file in path.iterdir()}
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def wide_model() -> DIPOLE:
    """Wide enough for 8 bits."""
    return make_model(unbounded(4), spaces.Box(-1.0, 1.0, (2,)), {"net_arch": [96, 96]})


@pytest.fixture(scope="module")
def wide_bundles(wide_model: DIPOLE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with its bundles ``fp32`` and ``int8``."""
    folder = tmp_path_factory.mktemp("wide")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(exporter, "PARITY_OBSERVATIONS", 60)
        paths = {precision: folder / precision for precision in PRECISIONS}
        exporter.export_bundles(wide_model, paths, max_int8_error=LARGEST_INT8_ERROR)
    return folder


@pytest.fixture(scope="module")
def bundles_of_another_process(wide_model: DIPOLE, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same bundles as single files, exported from the saved model in another process."""
    folder = tmp_path_factory.mktemp("other")
    wide_model.save(folder / "model.zip")
    other = [sys.executable, "-c", EXPORT_IN_ANOTHER_PROCESS, str(folder / "model.zip"), str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run(other, check=True, capture_output=True, env=environment)
    return folder


@pytest.fixture(scope="module")
def vector_networks() -> dict[str, bytes]:
    """The graphs of a small model, which ω is no part of."""
    return exporter.exported_form(model_of("vector")).networks()


def test_the_same_model_gives_the_same_bytes(
    wide_model: DIPOLE, wide_bundles: Path, bundles_of_another_process: Path, tmp_path: Path
) -> None:
    """In this process again, from a saved model in another, as a folder and as one file.

    Exporting leaves the model and the generators of random numbers alone.
    """
    again = {precision: tmp_path / f"{precision}.dipole" for precision in PRECISIONS}
    before = {name: value.clone() for name, value in wide_model.policy.state_dict().items()}
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    exporter.export_bundles(wide_model, again, max_int8_error=LARGEST_INT8_ERROR)
    assert torch.equal(torch.rand(3), expected[0])
    assert np.array_equal(np.random.rand(3), expected[1])
    assert all(torch.equal(value, before[name]) for name, value in wide_model.policy.state_dict().items())
    for precision in PRECISIONS:
        other = bundles_of_another_process / f"{precision}.dipole"
        first = contents(wide_bundles / precision)
        assert sorted(first) == sorted([MANIFEST, *NETWORK_FILES["pair"], VECTORS])
        assert contents(again[precision]) == first
        assert contents(other) == first
        assert again[precision].read_bytes() == other.read_bytes()


def test_the_graphs_are_plain_onnx(wide_bundles: Path) -> None:
    for precision in PRECISIONS:
        for name in NETWORK_FILES["pair"]:
            data = (wide_bundles / precision / name).read_bytes()
            model = onnx.load_from_string(data)
            onnx.checker.check_model(model, full_check=True)
            assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
            assert model.ir_version == IR_VERSION
            assert not any(part in data for part in (b"site-packages", str(Path.home()).encode(), b"File "))


def test_int8_is_smaller_and_says_by_how_much_it_differs(
    wide_model: DIPOLE, wide_bundles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    networks = {name: (wide_bundles / "fp32" / name).read_bytes() for name in NETWORK_FILES["pair"]}
    monkeypatch.setattr(ExportedPair, "networks", lambda _: networks)
    exact, short = (read_bundle(wide_bundles / precision).manifest for precision in PRECISIONS)
    # The critics and the first and last layers stay float.
    assert short.files[GUIDED].size < 0.75 * exact.files[GUIDED].size
    assert exact.parity.action_error < 1e-5 < short.parity.action_error < short.parity.action_tolerance
    with pytest.raises(ValueError, match="differ from the model's by") as caught:
        export_bundle(wide_model, tmp_path / "refused", "int8", max_int8_error=short.parity.action_error / 2)
    assert "precision='fp32'" in str(caught.value)
    assert "at ω = 4" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_rounding_never_overflows_16_bits() -> None:
    """On processors without VNNI two neighbouring products, inputs up to 255, are added in 16 bits."""
    random = np.random.default_rng(0)
    weight = random.standard_normal((97, 40)) * random.lognormal(0, 2, 40)
    inputs = random.standard_normal((300, 97)) @ random.standard_normal((97, 97))
    values = rounded(weight, inputs.T @ inputs).values.astype(int)
    pairs = np.abs(np.pad(values, ((0, 1), (0, 0)))).reshape(-1, 2, 40).sum(axis=1)
    assert 255 * pairs.max() <= 32_767
    assert pairs.max() >= 127, "the bound is used"


def test_rounding_fits_the_layer_not_the_weights() -> None:
    """With correlated inputs the layer's output is nearer than by rounding every weight to its nearest step."""
    random = np.random.default_rng(1)
    weight = random.standard_normal((64, 80))
    inputs = random.standard_normal((500, 8)) @ random.standard_normal((8, 64)) + 0.05 * random.standard_normal(
        (500, 64)
    )
    values, scale = rounded(weight, inputs.T @ inputs)
    fitted = np.linalg.norm(inputs @ (weight - values * scale))
    nearest = np.linalg.norm(inputs @ (weight - np.rint(weight / scale) * scale))
    assert fitted < 0.5 * nearest


def test_what_bundles_cannot_hold_is_refused(
    vector_networks: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of("vector")
    monkeypatch.setattr(ExportedPair, "networks", lambda _: vector_networks)
    with pytest.raises(ValueError, match="no hidden layer has 64 × 64 weights"):
        export_bundle(model, tmp_path / "bundle", "int8")
    with pytest.raises(ValueError, match="precision is 'fp16'"):
        export_bundle(model, tmp_path / "bundle", "fp16")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"omega 0\.5 is not in omega_range 1 … 2"):
        export_bundle(model, tmp_path / "bundle", omega_range=(1.0, 2.0))
    with pytest.raises(ValueError, match="at least -1"):
        export_bundle(model, tmp_path / "bundle", omega_range=(-2.0, 2.0))
    with pytest.raises(ValueError, match="action_names: found 2 names, 1 different, expected 2"):
        export_bundle(model, tmp_path / "bundle", action_names=["a", "a"])
    with pytest.raises(ValueError, match="observation_names: found 1 names"):
        export_bundle(model, tmp_path / "bundle", observation_names=["a"])
    with pytest.raises(ValueError, match=r"observations: found shape \(5, 3\)"):
        export_bundle(model, tmp_path / "bundle", observations=np.zeros((5, 3)))
    with pytest.raises(ValueError, match="not finite"):
        export_bundle(model, tmp_path / "bundle", observations=np.full((5, 4), np.nan))
    assert list(tmp_path.iterdir()) == []


class Unexportable(BaseFeaturesExtractor):
    """Its result depends on a number that only a run can tell."""

    def __init__(self, observation_space: spaces.Box) -> None:
        super().__init__(observation_space, features_dim=4)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return observations * 2 if float(observations.sum()) > 0 else observations


def test_a_network_that_onnx_cannot_express_is_refused(tmp_path: Path) -> None:
    model = make_model(unbounded(4), spaces.Box(-1.0, 1.0, (2,)), {"features_extractor_class": Unexportable})
    with pytest.raises(ValueError, match="cannot be expressed in ONNX") as caught:
        export_bundle(model, tmp_path / "bundle")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_parameters_that_are_not_finite_are_refused(value: float, tmp_path: Path) -> None:
    model = model_of("vector")
    name, parameter = next(iter(model.policy.actor.named_parameters()))
    with torch.no_grad():
        parameter.view(-1)[0] = value
    with pytest.raises(ValueError, match=f"the model's parameter {name} is not finite, expected finite numbers only"):
        export_bundle(model, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_that_acts_otherwise_is_not_written(
    vector_networks: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the graph had been built wrongly: guidance with another sign."""
    forward = graphs.GuidedPolicy.forward

    def wrong(self: Any, observation: torch.Tensor, noise: torch.Tensor, omega: torch.Tensor) -> Any:
        return forward(self, observation, noise, -omega)

    def networks(self: ExportedPair) -> dict[str, bytes]:
        return {**vector_networks, GUIDED: self.acting_graph(graphs.GuidedPolicy(self.source))}

    monkeypatch.setattr(graphs.GuidedPolicy, "forward", wrong)
    monkeypatch.setattr(ExportedPair, "networks", networks)
    with pytest.raises(ValueError, match="not written, because the fp32 bundle's actions differ"):
        export_bundle(model_of("vector"), tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_way_is_left_alone(tmp_path: Path) -> None:
    model = model_of("vector")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds thesis\.tex, expected a bundle or a new folder"):
        export_bundle(model, tmp_path / "folder")
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ValueError, match="is a file"):
        export_bundle(model, tmp_path / "file")
    (tmp_path / "folder.dipole").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        export_bundle(model, tmp_path / "folder.dipole")
    assert (tmp_path / "folder" / "thesis.tex").read_text() == "years of work"
    assert (tmp_path / "file").read_text() == "precious"


@pytest.mark.parametrize("name", ["bundle", "bundle.dipole"])
def test_a_bundle_is_replaced_whole_or_not_at_all(
    name: str, vector_networks: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ExportedPair, "networks", lambda _: vector_networks)
    model = model_of("vector")
    path = tmp_path / name
    export_bundle(model, path)
    first = hashlib.sha256(b"".join(sorted(contents(path).values()))).hexdigest()
    model.omega = 2.0

    def full_disk(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr("dipole_sb3.common.files.os.fsync", full_disk)
        with pytest.raises(OSError, match="No space left"):
            export_bundle(model, path)
    assert hashlib.sha256(b"".join(sorted(contents(path).values()))).hexdigest() == first
    assert [entry.name for entry in tmp_path.iterdir()] == [name]
    export_bundle(model, path)
    assert GuidedPolicy.load(path).manifest.omega == OmegaRange(2.0, -1.0, 4.0)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


def test_the_manifest_says_how_the_policy_was_made(tmp_path: Path) -> None:
    model = model_of("dict", beta=2.0)
    manifest = export_bundle(
        model,
        tmp_path / "bundle",
        omega_range=(0.0, 3.0),
        action_names=["steer", "throttle", "brake"],
        provenance={"dataset": {"name": "yard-2026"}},
    )
    assert manifest == GuidedPolicy.load(tmp_path / "bundle").manifest
    assert [part.key for part in manifest.observation.parts] == ["arm", "gear", "speed"]
    assert manifest.observation.names[:4] == ("arm_0", "arm_1", "arm_2", "arm_3")
    assert [(part.space, part.dtype, part.shape) for part in manifest.observation.parts] == [
        ("Box", "float64", (2, 2)),
        ("Discrete", "int64", ()),
        ("Box", "float32", (2,)),
    ]
    assert manifest.action.names == ("steer", "throttle", "brake")
    assert manifest.omega == OmegaRange(0.5, 0.0, 3.0)
    assert manifest.provenance["dataset"] == {"name": "yard-2026"}
    assert manifest.provenance["algorithm"] == "DIPOLE"
    assert manifest.provenance["hyperparameters"]["beta"] == 2.0
    assert set(manifest.provenance["packages"]) >= {"torch", "stable-baselines3"}
