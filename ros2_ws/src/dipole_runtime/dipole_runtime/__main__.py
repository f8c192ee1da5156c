"""``python -m dipole_runtime inspect | selftest | bench | page BUNDLE``."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence

import onnxruntime

from dipole_runtime.benchmark import draw_histograms, measure_latency, table
from dipole_runtime.bundle import Bundle, read_bundle
from dipole_runtime.errors import GuidedPolicyError, refusing
from dipole_runtime.inspection import describe
from dipole_runtime.page import write_page
from dipole_runtime.policy import LOAD_TIME_LIMIT, GuidedPolicy
from dipole_runtime.selftest import acting_network, measure_parity, recorded_observations, require_parity
from dipole_runtime.sessions import time_limit
from dipole_runtime.vectors import ActionVectors

_RUNTIME = f"ONNX Runtime {onnxruntime.__version__}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 on success; 1, with one sentence on stderr, if the bundle is refused."""
    chosen = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # Not all terminals and log files of robots use UTF-8.
        sys.stdout.reconfigure(errors="replace")
    try:
        bundle = read_bundle(chosen.bundle)
        if chosen.command == "inspect":
            print(describe(bundle))
        elif chosen.command == "selftest":
            _selftest(bundle)
        elif chosen.command == "page":
            page = write_page(bundle, chosen.folder)
            print(f"{page}: {page.stat().st_size / 1e6:.1f} MB; open it in any browser, it needs no network")
        else:
            _bench(bundle, chosen)
    except GuidedPolicyError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:
        # The reader (head, less) has closed the pipe; Python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m dipole_runtime", description="Looks at a policy's bundle.")
    commands = parser.add_subparsers(dest="command", required=True)
    inspect = commands.add_parser("inspect", help="say what it holds, without running it")
    selftest = commands.add_parser("selftest", help="have it reproduce the trainer's actions on this machine")
    bench = commands.add_parser("bench", help="time its decisions on this machine")
    page = commands.add_parser("page", help="write one HTML file in which it acts in a browser, without a network")
    for command in (inspect, selftest, bench, page):
        command.add_argument("bundle", metavar="BUNDLE", help="a directory or a .dipole file")
    page.add_argument("folder", metavar="OUT", help="a folder, made if it is missing; it gets an index.html")
    bench.add_argument("--omegas", type=_count, nargs="+", help="how many ω in one run (default 1 5)")
    bench.add_argument(
        "--candidates", type=_count, nargs="+", help="how many candidates (default: 1, 32 and the bundle's own number)"
    )
    bench.add_argument("--threads", type=_count, default=1, help="of one decision (default 1)")
    bench.add_argument("--runs", type=_count, default=1000, help="of each setting (default 1000)")
    bench.add_argument("--png", metavar="FILE", help="draw histograms; needs matplotlib")
    return parser


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"found {number}, expected at least 1")
    return number


def _selftest(bundle: Bundle) -> None:
    manifest = bundle.manifest
    vectors = bundle.vectors()
    omegas = [] if isinstance(vectors, ActionVectors) else [f"{omega:g}" for omega in vectors.omegas]
    at = f" at ω = {', '.join(omegas)}" if omegas else ""
    print(f"{bundle.where}: {len(vectors.observations)} test vectors{at}, {_RUNTIME}")
    print(f"{'':18} {'action error':>14} {'q error':>10}")
    at_export = f"{'at export':18} {manifest.parity.action_error:14.2e} {manifest.parity.q_error:10.2e}"
    print(f"{at_export}\n{'accepted':18} {manifest.parity.action_tolerance:14.2e} {manifest.parity.q_tolerance:10.2e}")
    with refusing(bundle.where), time_limit(LOAD_TIME_LIMIT) as options:
        results = []
        for path, measured in measure_parity(bundle, acting_network(bundle), 1, options):
            print(f"{path:18} {measured.action_error:14.2e} {measured.q_error:10.2e}", flush=True)
            results.append((path, measured))
        for path, measured in results:
            require_parity(path, measured)
    print("passed: the policy acts here as it did where it was trained")


def _bench(bundle: Bundle, chosen: argparse.Namespace) -> None:
    policy = GuidedPolicy.from_bundle(bundle, threads=chosen.threads)
    observations = list(recorded_observations(bundle))
    guidance = policy.manifest.guidance
    if policy.manifest.plan is not None:
        # The one that the fixed noise belongs to.
        observations = observations[:1]
    if guidance is not None:
        several = {1} if policy.manifest.plan is not None else {1, guidance.num_candidates, 32}
        counts = chosen.candidates or sorted(several)
        settings = [(omegas, count) for omegas in chosen.omegas or (1, 5) for count in counts]
    elif chosen.omegas or chosen.candidates:
        option = "--omegas" if chosen.omegas else "--candidates"
        raise GuidedPolicyError(f"{bundle.where} holds a deterministic policy, which has nothing for {option} to vary")
    else:
        settings = [(None, None)]
    latencies = [measure_latency(policy, observations, *setting, chosen.runs) for setting in settings]
    print(f"{bundle.where}: {bundle.manifest.precision}, {chosen.threads} thread(s), {_RUNTIME}")
    for line in table(latencies):
        print(line)
    if chosen.png is not None:
        drawn = draw_histograms(latencies, chosen.png)
        print(f"histograms: {chosen.png}" if drawn else "no histograms: matplotlib is not installed")


if __name__ == "__main__":
    sys.exit(main())
