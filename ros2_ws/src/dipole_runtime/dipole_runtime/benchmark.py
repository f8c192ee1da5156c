"""Measures how long decisions take on this machine: complete calls with all checks, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dipole_runtime.errors import GuidedPolicyError, shown_path
from dipole_runtime.policy import GuidedPolicy, Observation

_WARM_UPS = 20


@dataclass(frozen=True)
class Latency:
    """Run times for one setting: W values of ω, N candidates, and the seconds of each run.

    For a deterministic policy, both are None: it has neither ω nor candidates.
    """

    omegas: int | None
    candidates: int | None
    seconds: NDArray[np.float64]


def measure_latency(
    policy: GuidedPolicy, observations: Sequence[Observation], omegas: int | None, candidates: int | None, runs: int
) -> Latency:
    """Times ``runs`` decisions.

    :param observations: used in turn.
    :param omegas: number of ω values W ≥ 1, evenly spread over the bundle's range; 1: the bundle's default. None: the
        policy has no ω.
    :param candidates: number of candidates N ≥ 1; None: the policy has none.
    """
    span = policy.manifest.omega
    # Plans from other noise may leave the bounds, and then they are refused.
    noise = None if policy.manifest.plan is None else policy.deterministic_noise()
    values = None
    if span is not None and omegas is not None and omegas > 1:
        values = np.linspace(span.low, span.high, omegas).clip(span.low, span.high)
    seconds = np.empty(_WARM_UPS + runs)
    for index in range(len(seconds)):
        observation = observations[index % len(observations)]
        if values is None:
            seconds[index] = policy.act(observation, None, noise, num_candidates=candidates).latency_s
        else:
            seconds[index] = policy.sweep(observation, values, noise, num_candidates=candidates)[0].latency_s
    return Latency(omegas, candidates, seconds[_WARM_UPS:])


def table(latencies: Sequence[Latency]) -> Iterator[str]:
    """The lines of a table with p50, p90, p99 and the largest time, in milliseconds."""
    yield f"{'omegas':>6} {'candidates':>10} {'runs':>6} {'p50 ms':>8} {'p90 ms':>8} {'p99 ms':>8} {'max ms':>8}"
    for latency in latencies:
        numbers = np.percentile(latency.seconds, (50, 90, 99, 100)) * 1e3
        columns = " ".join(f"{number:8.3f}" for number in numbers)
        yield f"{_count(latency.omegas):>6} {_count(latency.candidates):>10} {len(latency.seconds):6} {columns}"


def _count(number: int | None) -> str:
    return "-" if number is None else str(number)


def draw_histograms(latencies: Sequence[Latency], path: str | os.PathLike[str]) -> bool:
    """Writes a PNG with all distributions; returns False if matplotlib is not installed.

    :raises GuidedPolicyError: the file cannot be written.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return False
    figure = Figure(figsize=(8, 0.4 + 1.3 * len(latencies)), layout="constrained")
    FigureCanvasAgg(figure)
    for row, latency in enumerate(latencies):
        axes = figure.add_subplot(len(latencies), 1, row + 1)
        p50, p99, largest = np.percentile(latency.seconds, (50, 99, 99.5)) * 1e3
        edges = np.linspace(latency.seconds.min() * 1e3, largest, 100).tolist()
        # Times beyond the picture's range are counted in its last bar.
        axes.hist(np.minimum(latency.seconds * 1e3, largest), edges, color="tab:blue")
        axes.axvline(p50, color="black", linewidth=1)
        axes.axvline(p99, color="tab:red", linewidth=1)
        setting = "" if latency.omegas is None else f"{latency.omegas} ω, {latency.candidates} candidates: "
        axes.set_title(f"{setting}p50 {p50:.2f} ms, p99 {p99:.2f} ms", fontsize=9)
        axes.set_yticks([])
    figure.axes[-1].set_xlabel("latency of a decision, ms (black: median, red: p99)")
    try:
        figure.savefig(path, format="png", dpi=120)
    except OSError as error:
        raise GuidedPolicyError(f"cannot write {shown_path(path)}: {error.strerror or error}") from error
    return True
