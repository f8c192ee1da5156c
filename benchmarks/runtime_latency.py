"""Latency of one guided action: PyTorch, two ONNX sessions in a loop, and the bundle's fused graph, in one run.

    python benchmarks/runtime_latency.py [--candidates 1 4 32] [--seconds 60] [--json FILE]

Everything runs on one core of its own, or on as many as --threads says, at the paper's sizes (observation 28, action 5,
three layers of 512, 10 flow steps) with random parameters, critic included: N candidates at ω = 1, of which the critic
picks one. The contenders take turns, a few calls each, so that other load on the machine falls on all of them; there is
no garbage collection.

  eager, compiled  ``model.predict``, as it is and with torch.compile around its networks
  decomposed       what one writes by hand around ONNX: two sessions and the critic's, the flow's loop in NumPy,
                   exported at opset 17, where the exporter spells GELU out in elementary operators
  two sessions     the same at the bundle's opset 20, which has a Gelu operator: the bundle's own reference
  jax              the same action compiled as a whole by XLA, where JAX is installed
  fused, int8      ``GuidedPolicy.act`` of an fp32 and of an int8 bundle

The bound of single precision is the larger of two times: streaming, every weight of both velocity fields read once per
flow step and the critics' once, as fast as torch sums them up; and the products' operations at the rate of a large
product, both by torch on as many threads (NumPy's BLAS would use the other cores).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from dipole_export import graphs
from dipole_export.exporter import Precision, export_bundles, exported_form
from dipole_export.pair import ExportedPair
from dipole_runtime import GuidedPolicy
from dipole_runtime.bundle import read_bundle
from dipole_runtime.reference import TwoNetworkPolicy
from dipole_runtime.tolerances import LARGEST_INT8_ERROR
from gymnasium import spaces
from train_speed import describe_machine

from dipole_sb3 import DIPOLE

OMEGA = 1.0
SWEEP = (-1.0, 0.0, 1.0, 2.0, 4.0)
STREAMING, LARGE_PRODUCT = "streaming", "large product"
_CALLS_A_TURN = 10
_LARGE = 512

LOADED = """
import os, re, sys, time
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
import numpy as np
from dipole_runtime import GuidedPolicy
start = time.perf_counter()
policy = GuidedPolicy.load(sys.argv[1])
loaded = time.perf_counter() - start
observation = np.zeros(policy.manifest.observation.size, np.float32)
for _ in range(1000):
    policy.act(observation, num_candidates=4)
peak = re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())
print(loaded, int(peak[1]) / 1024)
"""
"""Seconds of loading, and MiB of resident memory at most, imports included, after a thousand actions (Linux)."""


def make_model(observation: int, action: int, width: int, flow_steps: int) -> DIPOLE:
    """A model of the paper's shape with random parameters."""
    random = np.random.default_rng(0)
    data = {
        "observations": random.normal(size=(64, observation)).astype(np.float32),
        "next_observations": random.normal(size=(64, observation)).astype(np.float32),
        "actions": random.uniform(-1, 1, (64, action)).astype(np.float32),
        "rewards": random.normal(size=64),
        "masks": np.ones(64),
    }
    return DIPOLE(
        "MlpPolicy",
        dataset=data,
        policy_kwargs={"net_arch": [width] * 3},
        flow_steps=flow_steps,
        omega=OMEGA,
        seed=0,
        device="cpu",
    )


class Decomposed(TwoNetworkPolicy):
    """The two-session loop over graphs that spell GELU out, as PyTorch's exporter writes them below opset 20."""

    def __init__(self, model: DIPOLE, bundle: Path, threads: int) -> None:
        super().__init__(read_bundle(bundle), threads)
        exported = exported_form(model)
        assert isinstance(exported, ExportedPair)
        source = exported.source
        batch = torch.export.Dim("batch")
        example = (torch.zeros(2, len(model.observation_space.low)), torch.zeros(2, len(source.low)), torch.zeros(2, 1))  # type: ignore[attr-defined]
        for network in range(2):
            program = torch.onnx.export(
                graphs.VelocityField(source, network).eval(),
                example,
                input_names=["observation", "action_t", "time"],
                output_names=["velocity"],
                dynamic_shapes=tuple({0: batch} for _ in example),
                opset_version=17,
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = threads
            self._networks[network] = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)


def contenders(
    model: DIPOLE, bundles: Mapping[Precision, Path], candidates: int, threads: int
) -> dict[str, Callable[[], object]]:
    """By name, a call that makes one action."""
    assert isinstance(model.observation_space, spaces.Box)
    observation = np.random.default_rng(1).standard_normal(model.observation_space.shape, np.float32)
    omegas, random = np.array([OMEGA], np.float32), np.random.default_rng(2)
    size = model.policy.action_dim
    compiled = torch.compile(model.policy._predict)
    reference = TwoNetworkPolicy(read_bundle(bundles["fp32"]), threads)
    decomposed = Decomposed(model, bundles["fp32"], threads)
    fused, short = (GuidedPolicy.load(path, threads) for path in (bundles["fp32"], bundles["int8"]))

    def draw() -> Any:
        return random.standard_normal((candidates, size), np.float32)

    def run_compiled() -> object:
        with torch.no_grad():
            return compiled(torch.as_tensor(observation[None]), omega=OMEGA, num_candidates=candidates).numpy()

    others: dict[str, Callable[[], object]] = {}
    if find_spec("jax") is not None:
        from latency_jax import guided_action

        in_jax = guided_action(model, candidates, OMEGA, seed=2)
        others["jax"] = lambda: in_jax(observation)
    return {
        "eager": lambda: model.predict(observation, omega=OMEGA, num_candidates=candidates),
        "compiled": run_compiled,
        "decomposed": lambda: decomposed.run(observation, draw(), omegas),
        "two sessions": lambda: reference.run(observation, draw(), omegas),
        **others,
        "fused": lambda: fused.act(observation, omega=OMEGA, rng=random, num_candidates=candidates),
        "int8": lambda: short.act(observation, omega=OMEGA, rng=random, num_candidates=candidates),
        STREAMING: streaming(model),
        LARGE_PRODUCT: large_product(),
    }


def operations(model: DIPOLE, candidates: int) -> int:
    """Floating-point operations (two per multiply-add) of the matrix products of one action."""
    pair, critics = (
        sum(weight.numel() for member in range(2) for weight in _matrices(head.mlp, member))
        for head in (model.policy.actor.head, model.policy.critic.head)
    )
    return 2 * candidates * (model.policy.flow_steps * pair + critics)


def large_product() -> Callable[[], object]:
    """A product that no memory holds back."""
    square = torch.randn(_LARGE, _LARGE, generator=torch.Generator().manual_seed(3))
    return lambda: square @ square


def streaming(model: DIPOLE) -> Callable[[], object]:
    """Reads what has to be read for an action: every weight of the pair in every step, the critics' once."""
    pair = [layer for member in range(2) for layer in _matrices(model.policy.actor.head.mlp, member)]
    critics = [layer for member in range(2) for layer in _matrices(model.policy.critic.head.mlp, member)]
    order = [*pair * model.policy.flow_steps, *critics]

    def read() -> None:
        # Not by matrix-vector products: torch's take twice as long as XLA's whole action.
        for weight in order:
            weight.sum()

    return read


def _matrices(mlp: Any, member: int) -> list[torch.Tensor]:
    layers = [*mlp.hidden, mlp.output]
    return [layer.weight[member].detach().T.contiguous() for layer in layers]


def measure(calls: dict[str, Callable[[], object]], seconds: float) -> dict[str, np.ndarray]:
    """Seconds of every call, by contender, in turns."""
    for call in calls.values():
        for _ in range(5):
            call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    gc.collect()
    gc.disable()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, call in calls.items():
            for _ in range(_CALLS_A_TURN):
                start = time.perf_counter()
                call()
                times[name].append(time.perf_counter() - start)
    gc.enable()
    return {name: np.asarray(values) for name, values in times.items()}


def bound_seconds(times: dict[str, np.ndarray], needed: int) -> float:
    """What single precision cannot go below on this core.

    :param needed: floating-point operations of an action.
    """
    rate = 2 * _LARGE**3 / float(np.median(times[LARGE_PRODUCT]))
    return max(float(np.median(times[STREAMING])), needed / rate)


def summary(times: dict[str, np.ndarray], bound: float) -> list[dict[str, Any]]:
    """One row for each contender; ratios are of medians.

    :param bound: in seconds.
    """
    rows = []
    for name, values in times.items():
        if name in (STREAMING, LARGE_PRODUCT):
            continue
        p50, p99 = np.percentile(values * 1e3, [50, 99])
        ratios = {
            f"of_{base.replace(' ', '_')}": p50 / 1e3 / float(np.median(times[base]))
            for base in ("decomposed", "two sessions")
        }
        row = {"contender": name, "p50_ms": p50, "p99_ms": p99, "p99_of_p50": p99 / p50, **ratios}
        rows.append({**row, "of_bound": p50 / 1e3 / bound})
    return rows


def loaded(bundle: Path) -> tuple[float, float]:
    """Seconds of loading and MiB of resident memory of a process that does nothing else."""
    printed = subprocess.run(
        [sys.executable, "-c", LOADED, str(bundle)], capture_output=True, text=True, check=True
    ).stdout
    seconds, mebibytes = map(float, printed.split())
    return seconds, mebibytes


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 4, 32])
    parser.add_argument("--threads", type=int, default=1, help="of everything, each on a core of its own (1)")
    parser.add_argument("--width", type=int, default=512, help="of three hidden layers")
    parser.add_argument("--flow-steps", type=int, default=10)
    parser.add_argument("--observation", type=int, default=28)
    parser.add_argument("--action", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="measuring time for each N, and for the sweep")
    parser.add_argument("--json", type=Path, default=None, help="write the same figures to this file")
    options = parser.parse_args(arguments)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.threads :])
    torch.set_num_threads(options.threads)
    machine = {**describe_machine(), "onnxruntime": onnxruntime.__version__}
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    model = make_model(options.observation, options.action, options.width, options.flow_steps)
    result: dict[str, Any] = {"benchmark": "runtime_latency", **machine, "rows": [], "sweep": [], "loaded": []}
    with tempfile.TemporaryDirectory() as folder:
        bundles: dict[Precision, Path] = {"fp32": Path(folder) / "fp32", "int8": Path(folder) / "int8"}
        manifests = export_bundles(model, bundles, max_int8_error=LARGEST_INT8_ERROR)
        for precision, path in bundles.items():
            manifest = manifests[precision]
            megabytes = sum(entry.size for entry in manifest.files.values()) / 1e6
            seconds, mebibytes = loaded(path)
            print(
                f"{precision} bundle: {megabytes:.1f} MB, largest action error {manifest.parity.action_error:.2g} of "
                f"the range, loads in {seconds:.2f} s, {mebibytes:.0f} MiB resident with imports"
            )
            result["loaded"].append({"precision": precision, "seconds": seconds, "mebibytes": mebibytes})
        for candidates in options.candidates:
            times = measure(contenders(model, bundles, candidates, options.threads), options.seconds)
            bound = bound_seconds(times, operations(model, candidates))
            noise = float(np.percentile(times[STREAMING], 99) / np.median(times[STREAMING]))
            rows = summary(times, bound)
            result["rows"] += [{"candidates": candidates, "bound_ms": bound * 1e3, **row} for row in rows]
            print(
                f"\nN = {candidates}: bound {bound * 1e3:.2f} ms (streaming {np.median(times[STREAMING]) * 1e3:.2f} "
                f"ms, whose own p99/p50 is {noise:.2f})\n{_table(rows)}",
                flush=True,
            )
        rows = _sweep(bundles, options.seconds / 2, options.threads)
        result["sweep"] = rows
        print(f"\nFive ω in one sweep at N = 1, as a multiple of one ω: {', '.join(_sweep_text(row) for row in rows)}")
    if options.json is not None:
        options.json.write_text(json.dumps(result, indent=2) + "\n")


def _sweep(bundles: Mapping[Precision, Path], seconds: float, threads: int) -> list[dict[str, Any]]:
    rows = []
    for precision, path in bundles.items():
        policy = GuidedPolicy.load(path, threads)
        observation = np.random.default_rng(1).standard_normal(policy.manifest.observation.size, np.float32)
        noise = policy.deterministic_noise(1)

        def one(policy: GuidedPolicy = policy, x: Any = observation, noise: Any = noise) -> object:
            return policy.act(x, omega=OMEGA, noise=noise)

        def five(policy: GuidedPolicy = policy, x: Any = observation, noise: Any = noise) -> object:
            return policy.sweep(x, SWEEP, noise=noise)

        times = measure({"one": one, "five": five}, seconds)
        p50 = {name: float(np.median(values) * 1e3) for name, values in times.items()}
        rows.append({"precision": precision, **p50, "ratio": p50["five"] / p50["one"]})
    return rows


def _sweep_text(row: dict[str, Any]) -> str:
    return f"{row['precision']} {row['ratio']:.2f} ({row['one']:.2f} → {row['five']:.2f} ms)"


def _table(rows: list[dict[str, Any]]) -> str:
    columns = {"": 13, "p50 ms": 8, "p99 ms": 8, "p99/p50": 8, "of decomposed": 14, "of two sessions": 16}
    head = " ".join(f"{name:>{width}}" for name, width in {**columns, "of bound": 9}.items())
    lines = [
        f"{row['contender']:>13} {row['p50_ms']:>8.2f} {row['p99_ms']:>8.2f} {row['p99_of_p50']:>8.2f} "
        f"{row['of_decomposed']:>14.2f} {row['of_two_sessions']:>16.2f} {row['of_bound']:>9.2f}"
        for row in rows
    ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    main()
