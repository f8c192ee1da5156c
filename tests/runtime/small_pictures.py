"""Tiny but real bundles of policies that see: their encoder takes the mean of every channel, and what else is seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
from dipole_runtime.manifest import ENCODER, MANIFEST, VECTORS, Manifest, ObservationPart, ObservationSpec
from dipole_runtime.pictures import EncoderSpec, PictureSpec
from onnx import TensorProto, helper
from small_bundles import (
    Graph,
    Sizes,
    SmallPolicy,
    entry_of,
    files_of,
    make_action_vectors,
    make_policy,
    make_vectors,
)

CAMERA = PictureSpec("camera", 5, 4, 2)
ALONE = PictureSpec(None, 6, 3, 3)
Files = dict[str, bytes]


def features_of(pictures: Sequence[np.ndarray], joints: np.ndarray) -> np.ndarray:
    """The mean of each channel, from −1 to 1, and what else is seen; float32 [features]."""
    means = [picture.astype(np.float64).mean(axis=(0, 1)) / 127.5 - 1.0 for picture in pictures]
    return np.concatenate([*means, joints]).astype(np.float32)


def encoder_model(spec: EncoderSpec, joints: int) -> onnx.ModelProto:
    graph = Graph()
    parts = []
    for name in spec.input_names:
        graph.nodes.append(helper.make_node("Cast", [name], [f"{name}_numbers"], to=TensorProto.FLOAT))
        mean = graph.add("ReduceMean", f"{name}_numbers", graph.weight([1, 2], np.int64), keepdims=0)
        parts.append(graph.add("Sub", graph.add("Div", mean, graph.weight(127.5)), graph.weight(1.0)))
    graph.add("Concat", *parts, *(["observation"] if joints else []), to="features", axis=1)
    model = graph.model({"observation": ["B", joints]} if joints else {}, {"features": ["B", spec.features]})
    for name, picture in zip(spec.input_names, spec.pictures, strict=True):
        model.graph.input.append(helper.make_tensor_value_info(name, TensorProto.UINT8, ["B", *picture.shape]))
    return model


def seeing_policy(features: int = 3, seed: int = 0) -> SmallPolicy:
    """Its networks take features, which they do not normalise."""
    return make_policy(Sizes(features), (ObservationPart(None, (features,), "float32", "Box", None),), seed)


def seeing_files(form: str, pictures: Sequence[PictureSpec] = (CAMERA,), joints: int = 1, seed: int = 0) -> Files:
    """A bundle whose policy sees pictures, and joints under that key where there are some."""
    spec = EncoderSpec(tuple(pictures), sum(picture.channels for picture in pictures) + joints)
    policy, rng, count = seeing_policy(spec.features, seed), np.random.default_rng(3), 3
    seen = [rng.integers(0, 256, (count, *picture.shape), np.uint8) for picture in pictures]
    others = rng.normal(size=(count, joints)).astype(np.float32)
    features = np.stack([features_of([one[row] for one in seen], others[row]) for row in range(count)])
    if form == "deterministic":
        vectors: Any = make_action_vectors(policy, count, seen=features)
    else:
        vectors = make_vectors(policy, count, form=form, seen=features)
    files = files_of(form, policy)
    files[VECTORS] = replace(vectors, observations=others, pictures=tuple(seen)).to_bytes()
    files[ENCODER] = encoder_model(spec, joints).SerializeToString(deterministic=True)
    parts = (ObservationPart("joints", (joints,), "float64", "Box", None),) if joints else ()
    manifest = replace(
        Manifest.from_bytes(files[MANIFEST], "without pictures"),
        files={name: entry_of(content) for name, content in files.items() if name != MANIFEST},
        encoder=spec,
        observation=ObservationSpec(joints, tuple(f"joint_{index}" for index in range(joints)), parts),
    )
    return {**files, MANIFEST: manifest.to_bytes()}
