"""Policies that see, as bundles: beside the model itself, with pictures that Pillow resizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from dipole_export import command, exporter
from dipole_export.cli import main
from dipole_export.exporter import export_bundle, exported_form
from dipole_export.pictures import Encoding, Resized, as_trained, encoder_spec
from dipole_runtime import GuidedPolicy, read_bundle
from dipole_runtime.manifest import ENCODER
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as some
from models import SMALL, make_model, scatter
from PIL import Image
from sampled_environments import Sampled, dict_env, image_env, image_space
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from dipole_sb3 import CFGRL, DIPOLE, FQL, IDQL, IQL, OfflineReplayBuffer, stack_frames

ENCODERS: dict[str, Any] = {
    "features_extractor_class": "impala-small",
    "features_extractor_kwargs": {"features_dim": 12, "stack_sizes": (4, 4)},
}


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "PARITY_PICTURES", 20)


def seeing_model(algorithm: type[Any], env: Any, **policy_kwargs: Any) -> Any:
    policy = "MultiInputPolicy" if isinstance(env.observation_space, spaces.Dict) else "CnnPolicy"
    few = {"flow_steps": 2} if algorithm in (DIPOLE, CFGRL, FQL) else {}
    chosen = {**SMALL, **ENCODERS, **policy_kwargs}
    if algorithm is IDQL:
        chosen |= {"net_arch": {"pi": [16], "qf": [24, 16]}, "diffusion_steps": 2}
    model = algorithm(policy, env, policy_kwargs=chosen, seed=0, device="cpu", buffer_size=10, **few)
    scatter(model)
    return model


@settings(max_examples=60, deadline=None)
@given(
    some.tuples(some.integers(1, 90), some.integers(1, 90)),
    some.tuples(some.integers(1, 40), some.integers(1, 40)),
    some.integers(0, 2**32 - 1),
)
def test_resizing_in_the_graph_is_pillows_to_the_bit(camera: Any, trained: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # Edges between the darkest and the brightest, where rounding shows.
    picture = rng.choice(np.array([0, 1, 127, 128, 254, 255], np.uint8), (2, *camera, 3))
    found = Resized(camera, trained)(torch.as_tensor(picture)).numpy()
    expected = [
        np.asarray(Image.fromarray(one).resize(trained[::-1], Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        for one in picture
    ]
    assert np.array_equal(found, np.stack(expected))


class TestADictOfCameraAndVector:
    """DIPOLE's pair, with another camera than in training."""

    @pytest.fixture(scope="class")
    def model(self) -> Any:
        return seeing_model(DIPOLE, dict_env(), share_features_extractor=True)

    @pytest.fixture(scope="class")
    def bundle(self, model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("bundle") / "robot.dipole"
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exporter, "PARITY_PICTURES", 20)
            manifest = export_bundle(model, path, picture={"camera": (47, 60)})
        assert manifest.parity.action_error < 1e-5
        return path

    def test_it_acts_as_the_model_on_what_pillow_makes_of_its_pictures(self, model: Any, bundle: Path) -> None:
        policy, rng = GuidedPolicy.load(bundle), np.random.default_rng(0)
        assert policy.manifest.pictures[0].shape == (47, 60, 1)
        assert [part.key for part in policy.manifest.observation.parts] == ["joints"]
        for omega in (-1.0, 0.0, 0.5, 4.0):
            camera = rng.integers(0, 256, (47, 60, 1), np.uint8)
            joints = rng.normal(size=3).astype(np.float32)
            small = np.asarray(Image.fromarray(camera[:, :, 0]).resize((36, 36), Image.Resampling.BILINEAR))
            expected, _ = model.predict(
                {"camera": small[:, :, None], "joints": joints}, deterministic=True, omega=omega
            )
            found = policy.act({"camera": camera, "joints": joints}, omega, policy.deterministic_noise())
            np.testing.assert_allclose(found.action, expected, atol=2e-5)

    def test_the_encoder_is_written_to_the_same_bytes(self, model: Any, bundle: Path) -> None:
        form = exported_form(model)
        spec = encoder_spec(model.observation_space, (47, 60), form.source.seen_size)
        assert spec is not None
        assert spec == read_bundle(bundle).manifest.encoder
        assert Encoding(form.source, spec).to_onnx() == read_bundle(bundle).files[ENCODER]

    def test_a_shared_extractor_is_in_it_once(self, model: Any, bundle: Path) -> None:
        graph = onnx.load_from_string(read_bundle(bundle).files[ENCODER]).graph
        extractor = model.policy.actor.features_extractor
        convolutions = sum(isinstance(module, torch.nn.Conv2d) for module in extractor.modules())
        assert sum(node.op_type == "Conv" for node in graph.node) == convolutions
        assert read_bundle(bundle).manifest.seen_size == extractor.features_dim


class TestPicturesAloneByTheCommand:
    """IQL's deterministic policy, saved, then exported as users do."""

    @pytest.fixture(scope="class")
    def saved(self, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
        model = seeing_model(IQL, image_env())
        path = tmp_path_factory.mktemp("model") / "model.zip"
        model.save(path)
        return model, path

    def export(self, saved: tuple[Any, Path], capsys: pytest.CaptureFixture[str], *options: str) -> tuple[str, Path]:
        bundle = saved[1].parent / f"bundle{len(options)}"
        assert main(["export", str(saved[1]), str(bundle), *options]) == 0
        return capsys.readouterr().out, bundle

    def test_it_acts_as_the_model(self, saved: tuple[Any, Path], capsys: pytest.CaptureFixture[str]) -> None:
        model, _ = saved
        told, bundle = self.export(saved, capsys)
        assert "picture of 36 × 36 × 3 → action" in told
        policy, rng = GuidedPolicy.load(bundle), np.random.default_rng(1)
        for _ in range(5):
            picture = rng.integers(0, 256, (36, 36, 3), np.uint8)
            expected, _ = model.predict(picture)
            np.testing.assert_allclose(policy.act(picture).action, expected, atol=1e-5)

    def test_in_8_bits_it_is_smaller_and_says_how_far_off(
        self, saved: tuple[Any, Path], capsys: pytest.CaptureFixture[str]
    ) -> None:
        told, bundle = self.export(
            saved, capsys, "--precision", "int8", "--picture", "72", "50", "--max-int8-error", "0.2"
        )
        assert "int8, picture of 50 × 72 × 3 → action" in told
        manifest = read_bundle(bundle).manifest
        assert 1e-5 < manifest.parity.action_error <= 0.2
        operators = {node.op_type for node in onnx.load_from_string(read_bundle(bundle).files[ENCODER]).graph.node}
        assert "QuantizeLinear" in operators
        GuidedPolicy.load(bundle).act(np.zeros((72, 50, 3), np.uint8))


def test_diffusion_sees_too(tmp_path: Path) -> None:
    model = seeing_model(IDQL, dict_env())
    manifest = export_bundle(model, tmp_path / "bundle")
    assert (manifest.policy, manifest.format_version) == ("diffusion", 5)
    # Two encoders, since actor and critics are trained with one each: twelve numbers of the picture and three joints.
    assert manifest.seen_size == 2 * (12 + 3)
    assert manifest.parity.action_error < 1e-4


def test_channels_are_where_the_space_has_them() -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (2, 36, 30, 3), np.uint8)
    assert np.array_equal(as_trained(pictures, image_space(36, 30, 3)), pictures)
    assert np.array_equal(as_trained(pictures, image_space(3, 36, 30)), pictures.transpose(0, 3, 1, 2))


def test_of_recorded_pictures_a_few_are_read_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole sets of pictures, and stacks above all, may not fit into memory."""
    monkeypatch.setattr(command, "MOST_ROWS_WITH_PICTURES", 5)
    pictures = np.arange(41, dtype=np.uint8)[:, None, None, None] * np.ones((1, 6, 6, 1), np.uint8)
    data = OfflineReplayBuffer.from_arrays(
        {
            "observations": pictures[:-1],
            "next_observations": pictures[1:],
            "actions": np.zeros((40, 2), np.float32),
            "rewards": np.zeros(40, np.float32),
            "terminals": np.zeros(40, np.float32),
        }
    )
    assert command.flat_rows(data)[:, 0, 0, 0].tolist() == [0, 9, 19, 29, 39]
    assert command.flat_rows(stack_frames(data, 2))[:, 0, 0].tolist() == [[0, 0], [8, 9], [18, 19], [28, 29], [38, 39]]


class TestRefused:
    def test_pictures_of_floats(self, tmp_path: Path) -> None:
        env = Sampled(spaces.Box(0.0, 1.0, (3, 36, 36)))
        model = DIPOLE(
            "CnnPolicy",
            env,
            policy_kwargs={**SMALL, "normalize_images": False},
            device="cpu",
            buffer_size=10,
        )
        with pytest.raises(ValueError, match=r"observations are float32 of shape \(3, 36, 36\) from 0\.0 to 1\.0"):
            export_bundle(model, tmp_path / "bundle")

    def test_normalised_pictures(self, tmp_path: Path) -> None:
        env = VecNormalize(DummyVecEnv([dict_env]), norm_obs_keys=["camera"])
        model = DIPOLE("MultiInputPolicy", env, policy_kwargs=SMALL, device="cpu", buffer_size=10)
        with pytest.raises(ValueError, match=r"the observation 'camera' are float32 of shape \(36, 36, 1\) from -10"):
            export_bundle(model, tmp_path / "bundle")

    @pytest.mark.parametrize(
        ("arguments", "match"),
        [
            ({"picture": (0, 5)}, r"picture is \(0, 5\), expected height and width from 1 to 4096"),
            ({"picture": {"lidar": (8, 8)}}, r"picture has the key 'lidar', expected some of \['camera'\]"),
            (
                {"observations": {"camera": np.zeros((3, 9, 9, 1), np.uint8), "joints": np.zeros((3, 3))}},
                r"observations\['camera'\]: found shape \(3, 9, 9, 1\), expected rows of shape \(36, 36, 1\), uint8",
            ),
            ({"observations": {"camera": np.zeros((3, 36, 36, 1), np.uint8)}}, "found the keys"),
        ],
    )
    def test_arguments(self, tmp_path: Path, arguments: dict[str, Any], match: str) -> None:
        with pytest.raises(ValueError, match=match):
            export_bundle(seeing_model(DIPOLE, dict_env()), tmp_path / "bundle", **arguments)
        assert not list(tmp_path.iterdir())

    def test_a_camera_where_nothing_is_seen(self, tmp_path: Path) -> None:
        model = make_model(spaces.Box(-1.0, 1.0, (4,)), spaces.Box(-1.0, 1.0, (2,)))
        with pytest.raises(ValueError, match="expected none: the policy sees no pictures"):
            export_bundle(model, tmp_path / "bundle", picture=(48, 64))
