"""Policies that see: the pictures of a bundle, and the features that its other graphs take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from dipole_runtime import GuidedPolicy, GuidedPolicyError
from dipole_runtime.bundle import Bundle
from dipole_runtime.inspection import describe
from dipole_runtime.manifest import ENCODER, MANIFEST, VECTORS, Manifest, ObservationSpec
from dipole_runtime.page import page_bytes
from dipole_runtime.pictures import MAX_PICTURE_BYTES, EncoderSpec, PictureSpec
from dipole_runtime.selftest import recorded_observations
from dipole_runtime.sight import Sight
from onnx import TensorProto
from runtime_helpers import assert_one_sentence, refusal_of, refusal_of_structure
from small_bundles import candidates_of, edited, q_of, rehashed, written
from small_pictures import ALONE, CAMERA, Files, features_of, seeing_files, seeing_policy

FORMS = ("pair", "deterministic", "diffusion")


@pytest.fixture(scope="module")
def seeing() -> Files:
    return seeing_files("pair")


@pytest.fixture(scope="module")
def policy(seeing: Files) -> GuidedPolicy:
    return GuidedPolicy.from_bundle(Bundle.from_files(seeing, "robot's bundle"))


def test_candidates_and_returns_are_those_of_the_features(policy: GuidedPolicy) -> None:
    rng, small = np.random.default_rng(0), seeing_policy()
    picture, noise = rng.integers(0, 256, CAMERA.shape, np.uint8), rng.normal(size=(3, 2)).astype(np.float32)
    decided = policy.act({"camera": picture, "joints": [0.3]}, 2.0, noise)
    seen = features_of([picture], np.array([0.3]))
    actions = candidates_of(small, seen, noise, 2.0)
    q = q_of(small, seen, actions)
    np.testing.assert_allclose(decided.q, q, atol=1e-5)
    np.testing.assert_allclose(decided.action, actions[q.argmax()], atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("picture", [CAMERA, ALONE], ids=["and_a_joint", "alone"])
def test_bundles_of_every_form_load_from_a_folder_and_act(form: str, picture: PictureSpec, tmp_path: Path) -> None:
    files = seeing_files(form, [picture], int(picture is CAMERA))
    policy = GuidedPolicy.load(written(files, tmp_path / "bundle"))
    assert policy.manifest.format_version == 5
    assert policy.manifest.policy == form
    assert policy.manifest.pictures == (picture,)
    first, second, _ = recorded_observations(Bundle.from_files(files, ""))
    assert isinstance(first, dict) == (picture is CAMERA)
    given = {} if form == "deterministic" else {"noise": policy.deterministic_noise()}
    assert not np.array_equal(policy.act(first, **given).action, policy.act(second, **given).action)


def test_the_encoder_runs_once_for_a_decision(policy: GuidedPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    runs, features = [], Sight.features
    monkeypatch.setattr(Sight, "features", lambda *arguments: runs.append(1) or features(*arguments))
    observation = {"camera": np.zeros(CAMERA.shape, np.uint8), "joints": np.zeros(1)}
    policy.sweep(observation, [-1.0, 0.0, 1.0, 4.0], num_candidates=16)
    assert len(runs) == 1


def test_rows_apart_are_read_as_they_are(policy: GuidedPolicy) -> None:
    """As from an image whose rows are padded, or a part of one."""
    wide = np.random.default_rng(1).integers(0, 256, (9, 11, 2), np.uint8)
    part, noise = wide[2:7, 3:7], policy.deterministic_noise()
    one = policy.act({"camera": part, "joints": [0.0]}, noise=noise)
    other = policy.act({"camera": part.copy(), "joints": [0.0]}, noise=noise)
    assert np.array_equal(one.action, other.action)


GOOD: dict[str, Any] = {"camera": np.zeros(CAMERA.shape, np.uint8), "joints": np.zeros(1)}


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        (GOOD["camera"], ("is 'ndarray'", "keys 'camera', 'joints'")),
        ({"joints": np.zeros(1)}, ("has no 'camera'",)),
        ({"camera": GOOD["camera"]}, ("has no 'joints'",)),
        ({**GOOD, "lidar": 1}, ("unknown key 'lidar'",)),
        (
            {**GOOD, "camera": np.zeros((4, 5, 2), np.uint8)},
            ("'camera'", "shape (4, 5, 2)", "uint8 of shape (5, 4, 2)"),
        ),
        ({**GOOD, "camera": np.zeros(CAMERA.shape, np.float32)}, ("type float32", "expected a picture: uint8")),
        ({**GOOD, "camera": GOOD["camera"].tolist()}, ("type 'list'", "expected a picture")),
        ({**GOOD, "joints": [np.nan]}, ("nan for 'joint_0'",)),
    ],
)
def test_other_observations_are_refused(policy: GuidedPolicy, observation: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(GuidedPolicyError) as raised:
        policy.act(observation)
    assert_one_sentence(raised.value, *words)


def test_pictures_alone_are_no_mapping() -> None:
    policy = GuidedPolicy.from_bundle(Bundle.from_files(seeing_files("deterministic", [ALONE], 0), ""))
    with pytest.raises(GuidedPolicyError) as raised:
        policy.act({"camera": np.zeros(ALONE.shape, np.uint8)})
    assert_one_sentence(raised.value, "observation has type 'dict'", "uint8 of shape (6, 3, 3)")


class TestBrokenBundles:
    def test_another_picture_among_the_test_vectors(self, seeing: Files) -> None:
        def other(vectors: Any) -> Any:
            (pictures,) = vectors.pictures
            return replace(vectors, pictures=(255 - pictures,))

        vectors = other(Bundle.from_files(seeing, "").vectors()).to_bytes()
        refusal_of(
            rehashed({**seeing, VECTORS: vectors}),
            "the test vectors get another action from the fused graph than from the trainer",
        )

    @pytest.mark.parametrize(
        ("picture", "words"),
        [
            (replace(CAMERA, height=6), ("input picture_0 has shape [any, 5, 4, 2], expected [any, 6, 4, 2]",)),
            (replace(CAMERA, key="joints"), ("found the keys", "different strings")),
            (replace(CAMERA, key=None), ("found the keys", "one null or different strings")),
            (replace(CAMERA, key="a\nb"), ("printable",)),
            (replace(CAMERA, height=0), ("height: found 0, expected at least 1",)),
            (replace(CAMERA, width=5000), ("width: found 5000, expected at most 4096",)),
            (PictureSpec("camera", 4096, 4096, 3), (f"expected at most {MAX_PICTURE_BYTES}",)),
        ],
    )
    def test_pictures_that_the_graph_does_not_take(
        self, seeing: Files, picture: PictureSpec, words: tuple[str, ...]
    ) -> None:
        refusal_of_structure(rehashed(seeing, encoder=EncoderSpec((picture,), 3)), *words)

    def test_other_features_than_the_networks_take(self, seeing: Files) -> None:
        refusal_of_structure(rehashed(seeing, encoder=EncoderSpec((CAMERA,), 4)), "[", ", 4]")

    def test_pictures_as_floats(self, seeing: Files) -> None:
        def as_floats(model: onnx.ModelProto) -> None:
            model.graph.input[1].type.tensor_type.elem_type = TensorProto.FLOAT

        refusal_of_structure(edited(seeing, ENCODER, as_floats), "picture_0 has element type 1, expected uint8 (2)")

    def test_an_encoder_without_its_graph(self, seeing: Files) -> None:
        manifest = Manifest.from_bytes(seeing[MANIFEST], "")
        entries = {name: entry for name, entry in manifest.files.items() if name != ENCODER}
        files = {name: data for name, data in seeing.items() if name != ENCODER}
        with pytest.raises(GuidedPolicyError) as raised:
            Bundle.from_files({**files, MANIFEST: replace(manifest, files=entries).to_bytes()}, "robot's bundle")
        assert_one_sentence(raised.value, ENCODER)

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"format_version": 1}, ("unknown key 'encoder'",)),
            ({"encoder": None}, ("encoder",)),
            ({"policy": "plan"}, ("expected one of 'pair', 'deterministic', 'diffusion'",)),
            ({"policy": "deterministic"}, ("manifest.json",)),
            ({"format_version": 6}, ("newer version",)),
        ],
    )
    def test_a_manifest_that_contradicts_itself(
        self, seeing: Files, changes: dict[str, Any], words: tuple[str, ...]
    ) -> None:
        content = json.loads(seeing[MANIFEST]) | changes
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        refusal_of_structure({**seeing, MANIFEST: text.encode()}, *words)

    def test_a_bundle_that_sees_nothing_at_all(self, seeing: Files) -> None:
        manifest = Manifest.from_bytes(seeing[MANIFEST], "")
        blind = replace(manifest, encoder=None, observation=ObservationSpec(0, (), ()))
        files = {name: entry for name, entry in manifest.files.items() if name != ENCODER}
        data = {name: content for name, content in seeing.items() if name != ENCODER}
        refusal_of_structure(
            {**data, MANIFEST: replace(blind, files=files).to_bytes()}, "observation.parts: found none", "at least 1"
        )


def test_a_bundle_says_what_it_sees(seeing: Files) -> None:
    text = describe(Bundle.from_files(seeing, "robot's bundle"))
    assert "format       5" in text
    assert "pictures: 3 features of" in text
    assert "camera  5       4      2" in text


def test_a_page_cannot_show_pictures(seeing: Files) -> None:
    with pytest.raises(GuidedPolicyError) as raised:
        page_bytes(Bundle.from_files(seeing, "robot's bundle"))
    assert_one_sentence(raised.value, "robot's bundle sees pictures, expected a policy on vectors")
