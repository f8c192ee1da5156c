"""What one damaged bit in a bundle's weights does, when the manifest's hashes are made to agree with it.

    python benchmarks/bit_damage.py BUNDLE [--flips 400] [--dataset D] [--seed 0] [--json FILE]

Hashes find any accidental damage. This asks what is left when they do not help, because somebody writes them anew:
one bit of the weights, drawn at random from all networks, is flipped, the manifest is hashed again, and the bundle is
loaded. What is accepted then acts on observations that are none of the test vectors', beside the undamaged bundle and
from the same noise.

  refused    by the checks at load: weights that are not finite, or test vectors with another action or value
  moved      largest change of an action over observations and ω, as a share of the element's range; "of the flow" with
             one candidate, "driven" with the bundle's own number, where another candidate may also be chosen

Bits of a number: sign, exponent (8), upper and lower half of the mantissa (of 8-bit weights: upper and lower half).
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from dipole_runtime import Bundle, GuidedPolicy, GuidedPolicyError, read_bundle
from dipole_runtime.manifest import DETERMINISTIC, GUIDED, MANIFEST, FileEntry
from dipole_runtime.observations import observation_of
from train_speed import describe_machine

PERCENTILES = (50, 90, 99, 100)
_FLOAT_BITS = ("lower mantissa", "upper mantissa", "exponent", "sign")
_BITS: dict[int, list[str]] = {
    onnx.TensorProto.FLOAT: [_FLOAT_BITS[0]] * 12 + [_FLOAT_BITS[1]] * 11 + [_FLOAT_BITS[2]] * 8 + [_FLOAT_BITS[3]],
    onnx.TensorProto.INT8: ["lower half of 8"] * 4 + ["upper half of 8"] * 4,
    onnx.TensorProto.UINT8: ["lower half of 8"] * 4 + ["upper half of 8"] * 4,
}
"""Element types of weights → the part of the number that each bit belongs to, lowest first. Shapes and axes, which are
64-bit whole numbers, are no weights."""
_REASONS = {"holds NaN or infinity": "not finite", "another action": "another action", "another q": "another q"}


@dataclass
class Flip:
    """One damaged bit.

    :param refused: why, in two words; None: the bundle was accepted.
    :param flow: how far the actions of single candidates moved, as a share of their range; None if refused.
    :param driven: the same of the actions that would be driven.
    """

    file: str
    part: str
    refused: str | None = None
    flow: float | None = None
    driven: float | None = None


@dataclass(frozen=True)
class Weights:
    """One tensor in one file; ``bits`` are all of its numbers' together."""

    file: str
    index: int
    kind: int
    bits: int


def tensors_of(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Those that hold weights, in this graph and in the graphs inside it, always in the same order."""
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    for tensor in [*graph.initializer, *(one.t for one in attributes if one.HasField("t"))]:
        if tensor.data_type in _BITS and tensor.raw_data:
            yield tensor
    for attribute in attributes:
        if attribute.HasField("g"):
            yield from tensors_of(attribute.g)


def weights_of(bundle: Bundle) -> list[Weights]:
    """Every tensor of every network that a random bit may be in."""
    return [
        Weights(name, index, tensor.data_type, 8 * len(tensor.raw_data))
        for name in bundle.manifest.network_files
        for index, tensor in enumerate(tensors_of(onnx.load_from_string(bundle.files[name]).graph))
    ]


def damaged(bundle: Bundle, weights: Weights, bit: int) -> dict[str, bytes]:
    """The bundle's files with this bit of these weights flipped, and a manifest that agrees."""
    model = onnx.load_from_string(bundle.files[weights.file])
    tensor = list(tensors_of(model.graph))[weights.index]
    raw = bytearray(tensor.raw_data)
    raw[bit // 8] ^= 1 << (bit % 8)
    tensor.raw_data = bytes(raw)
    data = model.SerializeToString(deterministic=True)
    entry = FileEntry(hashlib.sha256(data).hexdigest(), len(data))
    manifest = replace(bundle.manifest, files={**bundle.manifest.files, weights.file: entry})
    return {**bundle.files, weights.file: data, MANIFEST: manifest.to_bytes()}


def actions_of(policy: GuidedPolicy, observations: np.ndarray, candidates: int | None) -> np.ndarray:
    """Actions at every ω of the range's ends, its default, 0 and 2: [observations, ω, action].

    :param candidates: N; None: the bundle's own.
    """
    span, spec = policy.manifest.omega, policy.manifest.observation
    rows = []
    for flat in observations:
        observation = observation_of(spec, flat)
        if span is None:
            rows.append([policy.act(observation).action.reshape(-1)])
            continue
        omegas = sorted(
            {span.low, span.default, span.high, *(one for one in (0.0, 2.0) if span.low <= one <= span.high)}
        )
        noise = policy.deterministic_noise(candidates)
        if candidates == 1:
            # A first row of zeros is the middle of the noise; one candidate alone should be like any other.
            noise = policy.deterministic_noise(2)[1:]
        rows.append([one.action.reshape(-1) for one in policy.sweep(observation, omegas, noise)])
    return np.array(rows, np.float64)


def fresh_observations(bundle: Bundle, dataset: str | None, count: int, rng: np.random.Generator) -> np.ndarray:
    """Flat observations [count, obs]: of a data set, or normal with the test vectors' mean and deviation."""
    if dataset is None:
        seen = np.asarray(bundle.vectors().observations, np.float64)
        drawn = rng.normal(seen.mean(0), seen.std(0), (count, seen.shape[1]))
        return drawn.astype(np.float32)
    from dipole_export.command import flat_rows
    from dipole_export.trainer import drawn_observations

    from dipole_sb3 import load_dataset

    data = load_dataset(dataset, device="cpu")
    # Not the seed with which the exporter draws the test vectors.
    return drawn_observations(data.observation_space, flat_rows(data), count, int(rng.integers(1, 2**31))).flat


def flip_bits(bundle: Bundle, flips: int, observations: np.ndarray, rng: np.random.Generator) -> list[Flip]:
    """Flips one bit after the other, each in the undamaged bundle."""
    action = bundle.manifest.action
    width = np.array(action.high) - np.array(action.low)
    whole = GuidedPolicy.from_bundle(bundle)
    expected = {candidates: actions_of(whole, observations, candidates) for candidates in (1, None)}
    tensors = weights_of(bundle)
    ends = np.cumsum([tensor.bits for tensor in tensors])
    found = []
    for place in rng.integers(ends[-1], size=flips):
        chosen = int(np.searchsorted(ends, place, side="right"))
        weights, bit = tensors[chosen], int(place - (ends[chosen - 1] if chosen else 0))
        parts = _BITS[weights.kind]
        flip = Flip(weights.file, parts[bit % len(parts)])
        found.append(flip)
        try:
            policy = GuidedPolicy.from_bundle(Bundle.from_files(damaged(bundle, weights, bit), "damaged"))
            if weights.file in (GUIDED, DETERMINISTIC):
                moved = [
                    float((np.abs(actions_of(policy, observations, candidates) - actions) / width).max())
                    for candidates, actions in expected.items()
                ]
            else:
                # The robot acts by one graph alone: the other networks are there to check it.
                moved = [0.0, 0.0]
        except GuidedPolicyError as error:
            flip.refused = next((short for words, short in _REASONS.items() if words in str(error)), "other")
        else:
            flip.flow, flip.driven = moved
    return found


def summary(flips: Sequence[Flip], by: str | None) -> list[dict[str, Any]]:
    """A row for each value of a field of :class:`Flip`, or one for all: counts, and percentiles of the accepted."""
    names = ["all"] if by is None else sorted({getattr(flip, by) for flip in flips})
    rows = []
    for name in names:
        some = [flip for flip in flips if by is None or getattr(flip, by) == name]
        row: dict[str, Any] = {"of": name, "flips": len(some), "refused": sum(f.refused is not None for f in some)}
        for kind in ("flow", "driven"):
            values = [getattr(flip, kind) for flip in some if flip.refused is None]
            percentiles = np.percentile(values, PERCENTILES) if values else [None] * len(PERCENTILES)
            row[kind] = {
                f"p{percent}" if percent < 100 else "max": None if value is None else float(value)
                for percent, value in zip(PERCENTILES, percentiles, strict=True)
            }
        rows.append(row)
    return rows


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The rows as lines of text."""
    titles = [f"p{percent}" if percent < 100 else "max" for percent in PERCENTILES]
    head = " ".join(f"{title:>8}" for title in titles)
    lines = [f"{'':24} {'flips':>6} {'refused':>8}   {'moved: of the flow':<35}   {'driven':<35}"]
    lines.append(f"{'':24} {'':6} {'':8}   {head}   {head}")
    for row in rows:
        cells = [
            " ".join(f"{'–' if row[kind][title] is None else format(row[kind][title], '.1e'):>8}" for title in titles)
            for kind in ("flow", "driven")
        ]
        lines.append(f"{row['of']:24} {row['flips']:6} {row['refused']:8}   {cells[0]}   {cells[1]}")
    return lines


def main(arguments: Sequence[str] | None = None) -> list[Flip]:
    """Prints the table and writes its figures.

    :return: each flip.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="a folder or a .dipole file")
    parser.add_argument("--flips", type=int, default=400)
    parser.add_argument("--observations", type=int, default=100, help="that the accepted act on")
    parser.add_argument("--dataset", metavar="D", help="take them from this data set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, default=None, help="write the same figures to this file")
    options = parser.parse_args(arguments)
    bundle = read_bundle(options.bundle)
    rng = np.random.default_rng(options.seed)
    observations = fresh_observations(bundle, options.dataset, options.observations, rng)
    flips = flip_bits(bundle, options.flips, observations, rng)
    manifest = bundle.manifest
    setup = {
        "policy": manifest.policy,
        "precision": manifest.precision,
        "algorithm": manifest.provenance.get("algorithm"),
        "observation": manifest.observation.size,
        "action": manifest.action.size,
        "bytes": sum(entry.size for entry in manifest.files.values()),
        "action_tolerance": manifest.parity.action_tolerance,
        "flips": options.flips,
        "observations": options.observations,
        "dataset": options.dataset,
        "seed": options.seed,
    }
    print(", ".join(f"{key} {value}" for key, value in setup.items()))
    rows = {by or "all": summary(flips, by) for by in (None, "file", "part")}
    for line in table([row for some in rows.values() for row in some]):
        print(line.rstrip())
    reasons = {reason: sum(flip.refused == reason for flip in flips) for reason in (*_REASONS.values(), "other")}
    print("refused: " + ", ".join(f"{reason} {count}" for reason, count in reasons.items()))
    if options.json is not None:
        result = {"benchmark": "bit_damage", **describe_machine(), **setup, "refused": reasons, "rows": rows}
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return flips


if __name__ == "__main__":
    main()
