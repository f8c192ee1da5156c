"""Writes a bundle's policy as one HTML file that runs in a browser: no network, no server, no ROS."""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import tempfile
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from dipole_runtime.bundle import Bundle
from dipole_runtime.errors import GuidedPolicyError, shown_path
from dipole_runtime.manifest import DETERMINISTIC, GUIDED, MANIFEST, VECTORS, Manifest
from dipole_runtime.policy import GuidedPolicy
from dipole_runtime.vectors import Floats, TestVectors, Vectors

PAGE = "index.html"
"""Name of the file in its folder."""
MAX_CANDIDATES_SHOWN = 32
"""Largest number of candidates that the page offers, unless the bundle's own default is larger."""
MAX_CONTENT = 64 << 20
"""Limit in bytes for the graph and the test vectors together: browsers hold them several times."""

_SCRIPTS = ("decode.js", "policy.js", "drawing.js", "controls.js", "page.js")
_RUNTIME_FILES = {
    "runtime_api": "onnxruntime-web.mjs.gz",
    "runtime_loader": "onnxruntime-web-loader.mjs.gz",
    "runtime_binary": "onnxruntime-web.wasm.gz",
    "runtime_notices": "onnxruntime-web.notices.txt.gz",
}
_PLACEHOLDER = re.compile(r"\{\{(\w+)\}\}")
_SLIDER_STDS = 3.0
_LONGEST_TEXT = 200


def write_page(bundle: Bundle, folder: str | os.PathLike[str]) -> Path:
    """Writes ``index.html`` into the folder, which is made if it is missing; an older page there is replaced.

    The same bundle gives the same bytes. The file appears only when it is complete.

    :param bundle: a checked bundle; its test vectors are run here, too, before anything is written.
    :param folder: any folder but a bundle's own.
    :return: the file.
    :raises GuidedPolicyError: the bundle acts differently than in the trainer, is too large for a browser, or holds
        plans; the folder is a file or a bundle, or cannot be written.
    """
    content = page_bytes(bundle)
    folder = Path(folder)
    page = folder / PAGE
    try:
        if folder.exists() and not folder.is_dir():
            raise GuidedPolicyError(
                f"cannot write {shown_path(page)}: {shown_path(folder)} is a file, expected a folder"
            )
        if (folder / MANIFEST).exists():
            raise GuidedPolicyError(
                f"cannot write {shown_path(page)}: {shown_path(folder)} is a bundle, which would be refused with "
                "another file in it; expected another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        _replace(page, content)
    # ValueError: a path with a null character in it.
    except (OSError, ValueError) as error:
        if isinstance(error, GuidedPolicyError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise GuidedPolicyError(f"cannot write {shown_path(page)}: {reason}") from error
    return page


def page_bytes(bundle: Bundle) -> bytes:
    """The page of a bundle; see :func:`write_page`."""
    if bundle.manifest.plan is not None or bundle.manifest.encoder is not None:
        raise GuidedPolicyError(f"{bundle.where} sees pictures, expected a policy on vectors for a page")
    policy = GuidedPolicy.from_bundle(bundle)
    vectors = bundle.vectors()
    graph = bundle.files[GUIDED if isinstance(vectors, TestVectors) else DETERMINISTIC]
    size = len(graph) + len(bundle.files[VECTORS])
    if size > MAX_CONTENT:
        raise GuidedPolicyError(
            f"{bundle.where} has {size} bytes of graph and test vectors, expected at most {MAX_CONTENT} for a page"
        )
    script = "\n".join(_text(name) for name in _SCRIPTS)
    style = _text("page.css")
    parts = {
        # A browser runs these two and nothing else, whatever else may have found its way into the page.
        "script_hash": _base64(hashlib.sha256(script.encode()).digest()),
        "style_hash": _base64(hashlib.sha256(style.encode()).digest()),
        "script": script,
        "style": style,
        "description": _script_json(_description(policy, vectors)),
        "graph": _base64(graph),
        **{part: _base64(_web(name)) for part, name in _RUNTIME_FILES.items()},
    }
    # In one pass: what is filled in is never searched for placeholders.
    return _PLACEHOLDER.sub(lambda match: parts[match[1]], _text("page.html")).encode()


def _description(policy: GuidedPolicy, vectors: Vectors) -> dict[str, Any]:
    """All that the page's script knows of the bundle, as JSON values; arrays of float32 as base64."""
    manifest = policy.manifest
    low, high = _slider_ranges(manifest, vectors.observations)
    guidance = manifest.guidance
    return {
        "hash": manifest.checksum,
        "precision": manifest.precision,
        "facts": _facts(manifest),
        "observation": {
            "size": manifest.observation.size,
            "names": manifest.observation.names,
            "parts": [{"key": part.key, "size": part.size} for part in manifest.observation.parts],
            "low": low,
            "high": high,
        },
        "action": {name: getattr(manifest.action, name) for name in ("size", "names", "low", "high")},
        "tolerance": {"action": manifest.parity.action_tolerance, "q": manifest.parity.q_tolerance},
        "vectors": {
            "count": len(vectors.observations),
            # A policy that has a page sees no pictures.
            **{
                name: _base64(array.astype("<f4").tobytes())
                for name, array in vars(vectors).items()
                if name != "pictures"
            },
        },
        "guidance": None
        if guidance is None
        else {
            "flow_steps": guidance.flow_steps,
            "num_candidates": guidance.num_candidates,
            "noise_size": manifest.noise_size,
            "omega": vars(guidance.omega),
            "knob": _knob(manifest),
            **_fixed_noise(policy, guidance.num_candidates),
        },
    }


def _fixed_noise(policy: GuidedPolicy, num_candidates: int) -> dict[str, Any]:
    most = max(MAX_CANDIDATES_SHOWN, num_candidates)
    return {"most_candidates": most, "noise": _base64(policy.deterministic_noise(most).astype("<f4").tobytes())}


def _facts(manifest: Manifest) -> dict[str, str]:
    """What the free part of the manifest says of the policy's origin, as far as it is as the exporter writes it."""
    provenance = manifest.provenance
    dataset = provenance.get("dataset")
    found = {
        "algorithm": provenance.get("algorithm"),
        "dataset": dataset.get("name") if isinstance(dataset, dict) else None,
    }
    return {name: _printable(text) for name, text in found.items() if isinstance(text, str)}


def _knob(manifest: Manifest) -> dict[str, Any] | None:
    """The algorithm's own name and scale of ω; None: it is called ω, or the manifest describes no knob."""
    knob = manifest.provenance.get("knob")
    if not isinstance(knob, dict):
        return None
    name, title, meaning, more = (knob.get(key) for key in ("name", "title", "meaning", "more_than_omega"))
    texts = [text for text in (name, title, meaning) if isinstance(text, str)]
    number = not isinstance(more, bool) and isinstance(more, int | float) and abs(more) <= 1e6
    # The provenance is free: what it says of a knob may be anything, and ω is always right.
    if len(texts) != 3 or not number:
        return None
    name, title, meaning = map(_printable, texts)
    return {"name": name, "title": title, "meaning": meaning, "more_than_omega": more}


def _printable(text: str) -> str:
    """A foreign text as one short line, without characters that turn the direction of writing."""
    return "".join(letter if letter.isprintable() else "�" for letter in text[:_LONGEST_TEXT])


def _slider_ranges(manifest: Manifest, observations: Floats) -> tuple[list[float], list[float]]:
    """Smallest and largest value of each element's slider: three standard deviations, or what the vectors span."""
    seen = observations.astype(np.float64)
    lowest, highest = seen.min(axis=0), seen.max(axis=0)
    margin = np.where(highest > lowest, 0.25 * (highest - lowest), np.maximum(1.0, np.abs(highest)))
    low, high = lowest - margin, highest + margin
    start = 0
    for part in manifest.observation.parts:
        at = slice(start, start + part.size)
        start += part.size
        if part.normalization is not None:
            # Beyond the clip nothing changes any more.
            width = np.array(part.normalization.std) * min(_SLIDER_STDS, part.normalization.clip)
            mean = np.array(part.normalization.mean)
            low[at], high[at] = np.minimum(mean - width, lowest[at]), np.maximum(mean + width, highest[at])
    largest = float(np.finfo(np.float32).max)
    low, high = low.clip(-largest, largest), high.clip(-largest, largest)
    return [_rounded(value, math.floor) for value in low], [_rounded(value, math.ceil) for value in high]


def _rounded(value: float, towards: Any) -> float:
    """Two significant digits, away from the range's middle, so that the range keeps what it holds."""
    if not value or abs(value) > 1e30:
        return float(value)
    unit = 10.0 ** (math.floor(math.log10(abs(value))) - 1)
    return float(f"{towards(value / unit) * unit:.6g}")


def _script_json(value: Any) -> str:
    """JSON that cannot end the element that it stands in, nor open a comment there."""
    text = json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _web(name: str) -> bytes:
    return files("dipole_runtime").joinpath("web").joinpath(name).read_bytes()


def _text(name: str) -> str:
    # Line breaks as in the repository, wherever it was checked out.
    return _web(name).decode("utf-8").replace("\r\n", "\n").rstrip("\n")


def _replace(path: Path, content: bytes) -> None:
    """Puts a file in its place when it is complete."""
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    unfinished = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
        # Temporary files are for their owner alone; a page is for whoever may read the folder.
        mask = os.umask(0)
        os.umask(mask)
        unfinished.chmod(0o666 & ~mask)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
