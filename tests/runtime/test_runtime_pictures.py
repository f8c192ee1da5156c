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
from dipole_runtime.manifest import ENCODER, MANIFEST, VECTORS, Manifest, ObservationPart, ObservationSpec
from dipole_runtime.page import page_bytes
from dipole_runtime.pictures import MAX_PICTURE_BYTES, EncoderSpec, PictureSpec
from dipole_runtime.selftest import recorded_observations
from dipole_runtime.sight import Sight
from onnx import TensorProto, helper
from runtime_helpers import assert_one_sentence, refusal_of, refusal_of_structure
from small_bundles import (
    Graph,
    Sizes,
    SmallPolicy,
    candidates_of,
    edited,
    entry_of,
    files_of,
    make_action_vectors,
    make_policy,
    make_vectors,
    q_of,
    rehashed,
    written,
)

CAMERA = PictureSpec("camera", 5, 4, 2)
PLAIN = PictureSpec(None, 6, 3, 3)
JOINT = ObservationPart("joint", (1,), "float64", "Box", None)
FORMS = ("pair", "deterministic", "diffusion")
Files = dict[str, bytes]


def features_of(picture: np.ndarray, joint: np.ndarray) -> np.ndarray:
    """The mean of each channel, from −1 to 1, and what else is seen; float32 [features]."""
    means = picture.astype(np.float64).mean(axis=(0, 1)) / 127.5 - 1.0
    return np.concatenate([means, joint]).astype(np.float32)


def encoder_model(picture: PictureSpec, others: int) -> onnx.ModelProto:
    graph = Graph()
    graph.nodes.append(helper.make_node("Cast", ["picture_0"], ["numbers"], to=TensorProto.FLOAT))
    mean = graph.add("ReduceMean", "numbers", graph.weight([1, 2], np.int64), keepdims=0)
    scaled = graph.add("Sub", graph.add("Div", mean, graph.weight(127.5)), graph.weight(1.0))
    if others:
        graph.add("Concat", scaled, "observation", to="features", axis=1)
    else:
        graph.add("Identity", scaled, to="features")
    model = graph.model(
        {"observation": ["B", others]} if others else {}, {"features": ["B", picture.channels + others]}
    )
    taken = helper.make_tensor_value_info("picture_0", TensorProto.UINT8, ["B", *picture.shape])
    model.graph.input.insert(0, taken)
    return model


def seeing_policy() -> SmallPolicy:
    """Its networks take three features, which they do not normalise."""
    return make_policy(Sizes(), (ObservationPart(None, (3,), "float32", "Box", None),))


def seeing_files(form: str, picture: PictureSpec = CAMERA, count: int = 3) -> Files:
    """A bundle whose policy sees a picture, and a joint if the picture has two channels."""
    policy, rng = seeing_policy(), np.random.default_rng(3)
    others = 3 - picture.channels
    pictures = rng.integers(0, 256, (count, *picture.shape), np.uint8)
    joints = rng.normal(size=(count, others)).astype(np.float32)
    seen = np.stack(list(map(features_of, pictures, joints)))
    if form == "deterministic":
        vectors: Any = make_action_vectors(policy, count, seen=seen)
    else:
        vectors = make_vectors(policy, count, form=form, seen=seen)
    files = files_of(form, policy)
    files[VECTORS] = replace(vectors, observations=joints, pictures=(pictures,)).to_bytes()
    files[ENCODER] = encoder_model(picture, others).SerializeToString(deterministic=True)
    names, parts = (("joint",), (JOINT,)) if others else ((), ())
    manifest = replace(
        Manifest.from_bytes(files[MANIFEST], "without pictures"),
        files={name: entry_of(content) for name, content in files.items() if name != MANIFEST},
        encoder=EncoderSpec((picture,), 3),
        observation=ObservationSpec(others, names, parts),
    )
    return {**files, MANIFEST: manifest.to_bytes()}


@pytest.fixture(scope="module")
def seeing() -> Files:
    return seeing_files("pair")


@pytest.fixture(scope="module")
def policy(seeing: Files) -> GuidedPolicy:
    return GuidedPolicy.from_bundle(Bundle.from_files(seeing, "robot's bundle"))


def test_candidates_and_returns_are_those_of_the_features(policy: GuidedPolicy) -> None:
    rng, small = np.random.default_rng(0), seeing_policy()
    picture, noise = rng.integers(0, 256, CAMERA.shape, np.uint8), rng.normal(size=(3, 2)).astype(np.float32)
    decided = policy.act({"camera": picture, "joint": [0.3]}, 2.0, noise)
    seen = features_of(picture, np.array([0.3]))
    actions = candidates_of(small, seen, noise, 2.0)
    q = q_of(small, seen, actions)
    np.testing.assert_allclose(decided.q, q, atol=1e-5)
    np.testing.assert_allclose(decided.action, actions[q.argmax()], atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("picture", [CAMERA, PLAIN], ids=["and_a_joint", "alone"])
def test_bundles_of_every_form_load_from_a_folder_and_act(form: str, picture: PictureSpec, tmp_path: Path) -> None:
    files = seeing_files(form, picture)
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
    observation = {"camera": np.zeros(CAMERA.shape, np.uint8), "joint": np.zeros(1)}
    policy.sweep(observation, [-1.0, 0.0, 1.0, 4.0], num_candidates=16)
    assert len(runs) == 1


def test_rows_apart_are_read_as_they_are(policy: GuidedPolicy) -> None:
    """As from an image whose rows are padded, or a part of one."""
    wide = np.random.default_rng(1).integers(0, 256, (9, 11, 2), np.uint8)
    part, noise = wide[2:7, 3:7], policy.deterministic_noise()
    one = policy.act({"camera": part, "joint": [0.0]}, noise=noise)
    other = policy.act({"camera": part.copy(), "joint": [0.0]}, noise=noise)
    assert np.array_equal(one.action, other.action)


GOOD: dict[str, Any] = {"camera": np.zeros(CAMERA.shape, np.uint8), "joint": np.zeros(1)}


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        (GOOD["camera"], ("is 'ndarray'", "keys 'camera', 'joint'")),
        ({"joint": np.zeros(1)}, ("has no 'camera'",)),
        ({"camera": GOOD["camera"]}, ("has no 'joint'",)),
        ({**GOOD, "lidar": 1}, ("unknown key 'lidar'",)),
        (
            {**GOOD, "camera": np.zeros((4, 5, 2), np.uint8)},
            ("'camera'", "shape (4, 5, 2)", "uint8 of shape (5, 4, 2)"),
        ),
        ({**GOOD, "camera": np.zeros(CAMERA.shape, np.float32)}, ("type float32", "expected a picture: uint8")),
        ({**GOOD, "camera": GOOD["camera"].tolist()}, ("type 'list'", "expected a picture")),
        ({**GOOD, "joint": [np.nan]}, ("nan for 'joint'",)),
    ],
)
def test_other_observations_are_refused(policy: GuidedPolicy, observation: Any, words: tuple[str, ...]) -> None:
    with pytest.raises(GuidedPolicyError) as raised:
        policy.act(observation)
    assert_one_sentence(raised.value, *words)


def test_pictures_alone_are_no_mapping() -> None:
    policy = GuidedPolicy.from_bundle(Bundle.from_files(seeing_files("deterministic", PLAIN), ""))
    with pytest.raises(GuidedPolicyError) as raised:
        policy.act({"camera": np.zeros(PLAIN.shape, np.uint8)})
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
            (replace(CAMERA, key="joint"), ("found the keys", "different strings")),
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
            model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT

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
