"""Describes a bundle in words: its observations, its actions, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence

from dipole_runtime.bundle import Bundle
from dipole_runtime.manifest import Manifest, ObservationPart

_ROWS = 64
"""Rows shown of a table; further rows are only counted."""


def describe(bundle: Bundle) -> str:
    """Several lines for people; programs find everything in the manifest."""
    manifest = bundle.manifest
    lines = [
        f"{bundle.where}",
        f"hash         {manifest.checksum}",
        f"format       {manifest.format_version}, opset {manifest.opset}, IR version {manifest.ir_version}",
        f"precision    {manifest.precision}",
        *_policy(manifest),
        _parity(manifest),
        "",
        *_table(
            ("file", "bytes", "sha256"),
            [
                (name, f"{manifest.files[name].size:,}", manifest.files[name].sha256[:12])
                for name in manifest.data_files
            ],
        ),
        "",
        *_pictures(manifest),
        f"observation: {manifest.observation.size} numbers",
        *_table(
            ("key", "shape", "dtype", "space", "normalization"),
            [_part_row(part) for part in manifest.observation.parts],
        ),
        *_wrapped(manifest.observation.names),
        "",
        f"action: {manifest.action.size} numbers of shape {list(manifest.action.shape)}, in the robot's units",
        *_table(("name", "low", "high"), _action_rows(manifest)),
        "",
        "provenance",
        *json.dumps(manifest.provenance, indent=2, ensure_ascii=False, sort_keys=True).splitlines(),
    ]
    # Text from a file must not contain control characters for the terminal.
    return "\n".join("".join(letter if letter.isprintable() else "�" for letter in line) for line in lines)


def _pictures(manifest: Manifest) -> Iterator[str]:
    if manifest.encoder is None:
        return
    yield f"pictures: {manifest.encoder.features} features of"
    rows = [
        ("-" if one.key is None else one.key, *map(str, (one.height, one.width, one.channels)))
        for one in manifest.encoder.pictures
    ]
    yield from _table(("key", "height", "width", "channels"), rows)
    yield ""


def _parity(manifest: Manifest) -> str:
    parity = manifest.parity
    if manifest.plan is not None:
        most = f"{parity.action_tolerance:.0e}"
        return f"parity       plans {parity.action_error:.2e} m or rad (at most {most}), measured at export"
    return (
        f"parity       actions {parity.action_error:.2e} of their range (at most {parity.action_tolerance:.0e}), "
        f"q {parity.q_error:.2e} (at most {parity.q_tolerance:.0e}), measured at export"
    )


def _policy(manifest: Manifest) -> Iterator[str]:
    guidance = manifest.guidance
    if guidance is None:
        yield "policy       deterministic: one action for an observation, nothing to turn"
        return
    if guidance.betas:
        yield "policy       diffusion"
        yield f"denoising    {guidance.flow_steps} steps, {guidance.num_candidates} candidates"
        return
    omega, plan = guidance.omega, manifest.plan
    if plan is not None:
        yield f"policy       plan of {manifest.action.shape[0]} poses, one every {plan.interval_s:g} s"
        yield f"cameras      {', '.join(plan.cameras)}: {plan.width} × {plan.height} pixels, RGB"
        yield f"commands     {', '.join(f'{index} {name}' for index, name in enumerate(plan.commands))}"
        yield f"solver       {guidance.flow_steps} steps"
        yield f"omega        {omega.default} by default, {omega.low} to {omega.high}"
        return
    yield "policy       guided pair"
    yield f"flow         {guidance.flow_steps} steps, {guidance.num_candidates} candidates"
    yield f"omega        {omega.default} by default, {omega.low} to {omega.high}"
    knob = manifest.provenance.get("knob")
    if isinstance(knob, dict):
        words = {
            name: knob.get(name, "?") for name in ("title", "more_than_omega", "default", "low", "high", "meaning")
        }
        yield (
            "knob         {title}, omega + {more_than_omega}: {default} by default, {low} to {high} ({meaning})".format(
                **words
            )
        )


def _part_row(part: ObservationPart) -> tuple[str, ...]:
    normalization = part.normalization
    words = "none" if normalization is None else f"(x - mean) / std, within ±{normalization.clip:g}"
    return ("-" if part.key is None else part.key, str(list(part.shape)), part.dtype, part.space, words)


def _action_rows(manifest: Manifest) -> Iterator[tuple[str, ...]]:
    action = manifest.action
    for name, low, high in zip(action.names, action.low, action.high, strict=True):
        yield name, f"{low:g}", f"{high:g}"


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    every = [titles, *rows]
    shown, more = every[: _ROWS + 1], len(every) - _ROWS - 1
    widths = [max(len(row[column]) for row in shown) for column in range(len(titles))]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in shown]
    return [line.rstrip() for line in lines] + ([f"  … and {more:,} more"] if more > 0 else [])


def _wrapped(names: Sequence[str]) -> list[str]:
    shown, more = names[:_ROWS], len(names) - _ROWS
    lines = [f"  {', '.join(shown[start : start + 8])}" for start in range(0, len(shown), 8)]
    return lines + ([f"  … and {more:,} more"] if more > 0 else [])
