"""The ROS 2 node behind a camera: latency of a decision, processor time, and memory over minutes of pictures.

    python benchmarks/ros_camera.py [--sizes 64x64 224x224 640x480] [--rate 30] [--seconds 30] [--memory-minutes 10]
        [--bundle B] [--json FILE]

Needs rclpy, as ros_latency.py does. Camera and node are processes of their own; the camera publishes another picture in
every message, best effort, the node decides once a period. Sizes are width × height; each is a bundle of its own.

  bare      ``GuidedPolicy.act`` alone in this process, before the node's run
  inference the same call in the node, by its ~/latency
  memory    resident size of the node, after the first minute and at the end (the last size only)

Without --bundle, a DIPOLE policy is exported for each size: one colour picture, which the bundle resizes to 64×64, the
small IMPALA encoder (512 features), actor and critics of 3 × 512, N = 4; random parameters.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from dipole_runtime import GuidedPolicy
from ros_latency import cpu_seconds, node_process, resident_mebibytes, wait_until
from ros_robot import NAMESPACE
from ros_sensors import publishing, spin
from train_speed import describe_machine

CONTRACT = """
rate_hz: {rate}
observation: [{{topic: camera, type: sensor_msgs/msg/Image, max_age_s: 1.0}}]
action: {{topic: command, type: std_msgs/msg/Float64MultiArray, field: data, on_stop: zero}}
"""
CAMERA = """
import sys, time
import numpy as np
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image
rate, width, height = float(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
rclpy.init()
node = rclpy.create_node("camera", namespace=sys.argv[4])
publisher = node.create_publisher(Image, "camera", qos_profile_sensor_data)
scene = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
due = time.perf_counter()
while True:
    scene = np.roll(scene, 1, axis=1)
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.data = scene.tobytes()
    message.header.stamp = node.get_clock().now().to_msg()
    publisher.publish(message)
    due += 1.0 / rate
    time.sleep(max(0.0, due - time.perf_counter()))
"""
_WARM_UP_S = 2.0
_FIRST_MINUTE_S = 60.0


def seeing_bundle(path: Path, width: int, height: int) -> Path:
    """A policy of FQL's visual size, for a camera of so many pixels."""
    import torch
    from dipole_export import export_bundle

    from dipole_sb3 import DIPOLE

    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (9, 64, 64, 3), np.uint8)
    data = {
        "observations": frames[:-1],
        "next_observations": frames[1:],
        "actions": random.uniform(-1, 1, (8, 5)).astype(np.float32),
        "rewards": random.normal(size=8),
        "masks": np.ones(8),
    }
    networks = {"features_extractor_class": "impala-small", "net_arch": [512, 512, 512]}
    model = DIPOLE("CnnPolicy", dataset=data, policy_kwargs=networks, num_candidates=4, seed=0, device="cpu")
    export_bundle(model, path, picture=(height, width))
    return path


class Listener:
    """Notes the node's ~/latency."""

    def __init__(self) -> None:
        import rclpy
        from std_msgs.msg import Float64MultiArray

        self.inference_s: list[float] = []
        self.node = rclpy.create_node("listener", namespace=NAMESPACE)
        self.node.create_subscription(
            Float64MultiArray, "dipole_policy/latency", lambda message: self.inference_s.append(message.data[0]), 100
        )

    def hears(self) -> bool:
        spin(self.node, 0.1)
        return bool(self.inference_s)


def bare_seconds(bundle: Path, seconds: float) -> np.ndarray:
    policy = GuidedPolicy.load(bundle)
    (spec,) = policy.manifest.pictures
    picture = np.random.default_rng(1).integers(0, 256, spec.shape, np.uint8)
    end, found = time.monotonic() + seconds, []
    while time.monotonic() < end:
        found.append(policy.act(picture).latency_s)
    return np.array(found)


def measure(bundle: Path, width: int, height: int, rate: float, seconds: float, minutes: float) -> dict[str, Any]:
    """One size of picture."""
    bare = bare_seconds(bundle, seconds / 3)
    listener = Listener()
    memory: list[float] = []
    try:
        with tempfile.TemporaryDirectory() as folder, publishing(CAMERA, rate, width, height):
            contract = Path(folder) / "contract.yaml"
            contract.write_text(CONTRACT.format(rate=rate))
            with node_process(bundle, contract) as running:
                wait_until(listener.hears, running, "a decision")
                spin(listener.node, _WARM_UP_S)
                listener.inference_s.clear()
                cpu, began = cpu_seconds(running.pid), time.monotonic()
                spin(listener.node, seconds)
                share = (cpu_seconds(running.pid) - cpu) / (time.monotonic() - began)
                inference = np.array(listener.inference_s)
                if minutes:
                    spin(listener.node, max(0.0, min(_FIRST_MINUTE_S, 30.0 * minutes) - seconds))
                    memory.append(resident_mebibytes(running.pid))
                    while time.monotonic() < began + 60.0 * minutes:
                        spin(listener.node, 10.0)
                        memory.append(resident_mebibytes(running.pid))
    finally:
        listener.node.destroy_node()
    milliseconds = {
        name: {f"p{share:g}": float(np.percentile(values, share) * 1e3) for share in (50, 99)}
        for name, values in (("bare", bare), ("inference", inference))
    }
    decided = {"decisions": len(inference), "expected": round(seconds * rate), "cpu_share": share}
    return {"width": width, "height": height, "ms": milliseconds, **decided, "memory_mib": memory}


def told(row: dict[str, Any]) -> str:
    bare, inference = row["ms"]["bare"], row["ms"]["inference"]
    line = (
        f"{row['width']} × {row['height']}: bare {bare['p50']:.2f} ms (p99 {bare['p99']:.2f}), in the node "
        f"{inference['p50']:.2f} (p99 {inference['p99']:.2f}); {row['decisions']} decisions of {row['expected']}, "
        f"{100 * row['cpu_share']:.0f} % of a core"
    )
    memory = row["memory_mib"]
    if memory:
        line += f"; memory {memory[0]:.1f} MiB after a minute, {max(memory):.1f} at most, {memory[-1]:.1f} at the end"
    return line


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--sizes", nargs="+", default=["64x64", "224x224", "640x480"], metavar="WxH", help="of pictures"
    )
    parser.add_argument("--bundle", type=Path, help="that takes one picture, of the only size that is given")
    parser.add_argument("--rate", type=float, default=30.0, metavar="HZ", help="of camera and node")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each measurement")
    parser.add_argument("--memory-minutes", type=float, default=10.0, help="of the last size; 0: none")
    parser.add_argument("--json", type=Path, help="write the same figures to this file")
    options = parser.parse_args(arguments)
    if options.bundle is not None and len(options.sizes) != 1:
        parser.error(f"--bundle takes pictures of one size, found --sizes {' '.join(options.sizes)}")
    import rclpy

    machine = describe_machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    rows = []
    rclpy.init()
    with tempfile.TemporaryDirectory() as folder:
        for size in options.sizes:
            width, height = map(int, size.split("x"))
            bundle = options.bundle or seeing_bundle(Path(folder) / size, width, height)
            minutes = options.memory_minutes if size == options.sizes[-1] else 0.0
            rows.append(measure(bundle, width, height, options.rate, options.seconds, minutes))
            print(told(rows[-1]), flush=True)
    rclpy.try_shutdown()
    if options.json is not None:
        options.json.write_text(json.dumps({"benchmark": "ros_camera", **machine, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
