"""bit_damage.py: which bits it flips, and that the accepted really act as it says."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests/runtime")]

import bit_damage  # noqa: E402
from dipole_runtime import Bundle, GuidedPolicy, GuidedPolicyError  # noqa: E402
from small_bundles import FORMS, files_of, make_policy, written  # noqa: E402


# It measures actions, also chosen among several; a plan is drawn, and not chosen.
@pytest.fixture(scope="module", params=[form for form in FORMS if form != "plan"])
def bundle(request: pytest.FixtureRequest) -> Bundle:
    return Bundle.from_files(files_of(request.param, make_policy()), "small")


def numbers(data: bytes) -> list[np.ndarray]:
    return [onnx.numpy_helper.to_array(one) for one in bit_damage.tensors_of(onnx.load_from_string(data).graph)]


def test_one_bit_of_one_number_is_another(bundle: Bundle) -> None:
    for weights in bit_damage.weights_of(bundle):
        files = bit_damage.damaged(bundle, weights, weights.bits - 1)
        before, after = (np.concatenate([one.ravel() for one in numbers(data)]) for data in
                         (bundle.files[weights.file], files[weights.file]))  # fmt: skip
        (changed,) = np.flatnonzero(before.view(np.uint32) != after.view(np.uint32))
        assert before[changed] == -after[changed], "the last bit of a tensor is a sign"
        assert {name for name in bundle.files if files[name] != bundle.files[name]} == {weights.file}


def test_every_weight_of_every_network_may_be_hit(bundle: Bundle) -> None:
    tensors = bit_damage.weights_of(bundle)
    assert {one.file for one in tensors} == set(bundle.manifest.network_files)
    # Of three layers of weights and biases each: 6 in a perceptron.
    least = {"guided_policy.onnx": 24, "deterministic_policy.onnx": 18, "critic.onnx": 12}
    for name in bundle.manifest.network_files:
        assert sum(one.file == name for one in tensors) >= least.get(name, 6)


def test_the_hashes_are_no_reason_to_refuse(bundle: Bundle) -> None:
    weights = bit_damage.weights_of(bundle)[0]
    GuidedPolicy.from_bundle(Bundle.from_files(bit_damage.damaged(bundle, weights, 0), "lowest bit"))
    files = {**bit_damage.damaged(bundle, weights, 0), "manifest.json": bundle.manifest.to_bytes()}
    with pytest.raises(GuidedPolicyError, match="sha256"):
        Bundle.from_files(files, "not hashed again")


def test_the_table_is_what_is_written(bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {**bundle.files, "manifest.json": bundle.manifest.to_bytes()}
    folder = written(files, tmp_path / "bundle")
    options = ["--flips", "40", "--observations", "5", "--seed", "1", "--json", str(tmp_path / "damage.json")]
    flips = bit_damage.main([str(folder), *options])
    found = json.loads((tmp_path / "damage.json").read_text())
    out = capsys.readouterr().out
    (every,) = found["rows"]["all"]
    assert every["flips"] == len(flips) == 40
    assert every["refused"] == sum(found["refused"].values()) == sum(flip.refused is not None for flip in flips)
    assert 0 < every["refused"] < 40
    assert f"{'all':24} {40:6} {every['refused']:8}" in out
    accepted = [flip for flip in flips if flip.refused is None]
    assert every["driven"]["max"] == max(flip.driven for flip in accepted if flip.driven is not None)
    # No observation of the test vectors is among these, but what they allow is small.
    assert every["flow"]["max"] < 0.1
    for by in ("file", "part"):
        assert sum(row["flips"] for row in found["rows"][by]) == 40
    alone = [flip for flip in accepted if flip.file not in ("guided_policy.onnx", "deterministic_policy.onnx")]
    assert all(flip.driven == 0 for flip in alone), "the robot does not act by these"
