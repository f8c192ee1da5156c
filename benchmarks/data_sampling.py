"""What data in storage cost beside data in memory: batches, training's memory, conversion's memory.

    python benchmarks/data_sampling.py [--transitions 10000000] [--folder DIR] [--json FILE]
    python benchmarks/data_sampling.py --frames 1000000 [--folder DIR] [--json FILE]

Makes a file in D4RL's layout (random numbers in episodes of 1,000; 10 million transitions with 78 observations and 12
actions are 3.6 GB), converts it, and draws batches of 512 from the stored set and from the same set in memory, in turns
and in one process, once the page cache is warm. `maps only` are the same files, drawn through memory maps alone. Then a
process of its own trains on the stored set, and its memory (VmRSS) is read after every update. Needs twice the file's
size on the disk, and twice its size in memory for the comparison.

With --frames the data are so many random frames of 64×64×3 (12 GB a million) in episodes of 1,000, stored once each, of
which batches of 256 show stacks of 3. Draws are timed, first from a cold page cache and then from whatever of the
frames it holds; then a process of its own draws them and trains the small IMPALA encoder. Its memory is RssAnon and
RssShmem, and with them RssFile, which counts touched pages of memory maps; the system's page cache is nobody's.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from gymnasium import spaces
from train_speed import describe_machine

from dipole_sb3 import load_dataset
from dipole_sb3.buffers.stored_buffer import StoredReplayBuffer
from dipole_sb3.datasets import storage

BATCH = 512
EPISODE = 1_000
IMAGE, STACK, STACKED_BATCH = (64, 64, 3), 3, 256

_ROWS_AT_A_TIME = 100_000
_DRAWS_A_TURN = 20

MEMORY = """
def mebibytes(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith(name))
"""

CONVERSION = f"""
import sys, time
{MEMORY}
from dipole_sb3.datasets.conversion import convert
before, start = mebibytes("VmRSS"), time.perf_counter()
convert(sys.argv[1], sys.argv[2])
print(time.perf_counter() - start, before, mebibytes("VmHWM"))
"""

TRAINING = f"""
import sys, torch
{MEMORY}
from stable_baselines3.common.callbacks import BaseCallback
from dipole_sb3 import DIPOLE
torch.set_num_threads(1)
class Memory(BaseCallback):
    highest = 0.0
    def _on_step(self):
        self.highest = max(self.highest, mebibytes("VmRSS"))
        return True
memory = Memory()
model = DIPOLE(
    "MlpPolicy", dataset=sys.argv[1], batch_size={BATCH}, policy_kwargs=dict(net_arch=[64, 64]), device="cpu"
)
start = mebibytes("VmRSS")
# Far more rows than updates can touch in a short time: what stays in memory in the end is there early.
for _ in range(int(sys.argv[3])):
    model.replay_buffer.draw({BATCH}, model.training_generator)
model.learn(int(sys.argv[2]), callback=memory)
print(start, memory.highest, mebibytes("VmHWM"))
"""


STACKED_TRAINING = f"""
import sys, torch
{MEMORY}
from stable_baselines3.common.callbacks import BaseCallback
from dipole_sb3 import IQL, load_dataset
torch.set_num_threads(1)
highest = {{"own": 0.0, "resident": 0.0}}
def look():
    own = mebibytes("RssAnon") + mebibytes("RssShmem")
    highest.update(own=max(highest["own"], own), resident=max(highest["resident"], own + mebibytes("RssFile")))
    return True
class Memory(BaseCallback):
    def _on_step(self):
        return look()
data = load_dataset(sys.argv[1], device="cpu", frame_stack=int(sys.argv[4]))
model = IQL(
    "CnnPolicy", dataset=data, batch_size=int(sys.argv[5]), device="cpu", random_crop=0.5, acceleration="eager",
    policy_kwargs=dict(features_extractor_class="impala-small"),
)
for _ in range(int(sys.argv[3])):
    model.replay_buffer.draw(int(sys.argv[5]), model.training_generator)
    look()
print(highest["own"], highest["resident"])
model.learn(int(sys.argv[2]), callback=Memory())
print(highest["own"], highest["resident"], mebibytes("VmHWM"))
"""


def make_frames(path: Path, frames: int) -> None:
    """Random frames in a stored data set."""
    random = np.random.default_rng(0)
    spaces_of = spaces.Box(0, 255, IMAGE, np.uint8), spaces.Box(-1, 1, (5,), np.float32)
    with storage.DatasetWriter(path, *spaces_of) as writer:
        for _ in range(frames // EPISODE):
            seen = random.integers(0, 256, (EPISODE + 1, *IMAGE), np.uint8)
            terminals = np.zeros(EPISODE, np.float32)
            terminals[-1] = 1
            writer.append(
                {
                    "observations": seen[:-1],
                    "next_observations": seen[1:],
                    "actions": random.uniform(-1, 1, (EPISODE, 5)).astype(np.float32),
                    "rewards": random.random(EPISODE, np.float32),
                    "terminals": terminals,
                    "masks": 1 - terminals,
                }
            )


def measure_frames(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    path = folder / "frames"
    make_frames(path, options.frames)
    for file in path.iterdir():
        with file.open("rb") as opened:
            os.fsync(opened.fileno())
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    torch.set_num_threads(1)
    # As the model has them: its encoder takes channels first.
    data = load_dataset(path, device="cpu", frame_stack=STACK).with_channels_first()
    generator, times = torch.Generator().manual_seed(0), []
    for _ in range(options.turns * _DRAWS_A_TURN):
        start = time.perf_counter()
        data.draw(STACKED_BATCH, generator)
        times.append(time.perf_counter() - start)
    figures = child(STACKED_TRAINING, path, options.updates, options.draws, STACK, STACKED_BATCH)
    return {
        "frames": data.size(),
        "stored_gigabytes": sum(file.stat().st_size for file in path.iterdir()) / 1e9,
        "first_batches_milliseconds": statistics.median(times[:_DRAWS_A_TURN]) * 1e3,
        "batch_milliseconds": statistics.median(times[_DRAWS_A_TURN:]) * 1e3,
        "drawing_mebibytes_own": figures[0],
        "drawing_mebibytes_resident": figures[1],
        "training_mebibytes_own": figures[2],
        "training_mebibytes_resident": figures[3],
        "training_mebibytes_peak": figures[4],
    }


def make_file(path: Path, transitions: int, observation: int, action: int) -> None:
    """Random transitions in D4RL's layout."""
    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"observations": (observation,), "actions": (action,), "rewards": ()}
    with h5py.File(path, "w") as file:
        for name, shape in shapes.items():
            file.create_dataset(name, (transitions, *shape), np.float32)
        for name in ("terminals", "timeouts"):
            file.create_dataset(name, (transitions,), bool)
        for start in range(0, transitions, _ROWS_AT_A_TIME):
            rows = np.arange(start, min(start + _ROWS_AT_A_TIME, transitions))
            for name, shape in shapes.items():
                values = random.random((len(rows), *shape), np.float32)
                file[name][rows[0] : rows[-1] + 1] = values * 2 - 1
            file["timeouts"][rows[0] : rows[-1] + 1] = rows % EPISODE == EPISODE - 1


def child(program: str, *arguments: object) -> list[float]:
    """The numbers that a program prints in a process of its own."""
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return [float(part) for part in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()]


def maps_only(path: Path) -> StoredReplayBuffer:
    """A stored set whose files are drawn through their maps, whatever their sizes."""
    buffer = storage.load(path, device="cpu")
    for file in (*buffer._arrays.observations.values(), *buffer._arrays.columns.values()):
        file.drawn_by_reads = False
    return buffer


def sampling_seconds(path: Path, turns: int) -> dict[str, float]:
    """Median seconds of a batch, by where it comes from."""
    torch.set_num_threads(1)
    stored = storage.load(path, device="cpu")
    # Reads everything: what comes after it is drawn from a warm page cache.
    buffers = {"memory": stored.in_memory(), "storage": stored, "maps only": maps_only(path)}
    times: dict[str, list[float]] = {name: [] for name in buffers}
    generator = torch.Generator().manual_seed(0)
    gc.disable()
    for turn in range(turns + 1):
        for name, buffer in buffers.items():
            for _ in range(_DRAWS_A_TURN):
                start = time.perf_counter()
                buffer.draw(BATCH, generator)
                if turn:  # the first is a warm-up
                    times[name].append(time.perf_counter() - start)
    gc.enable()
    return {name: statistics.median(values) for name, values in times.items()}


def measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    source, stored = folder / "data.hdf5", folder / "stored"
    make_file(source, options.transitions, options.observation, options.action)
    conversion, before, conversion_peak = child(CONVERSION, source, stored)
    source_bytes = source.stat().st_size
    source.unlink()
    seconds = sampling_seconds(stored, options.turns)
    start, training, peak = child(TRAINING, stored, options.updates, options.draws)
    return {
        "transitions": storage.load(stored).size(),
        "source_gigabytes": source_bytes / 1e9,
        "stored_gigabytes": sum(file.stat().st_size for file in stored.iterdir()) / 1e9,
        "conversion_seconds": conversion,
        "conversion_mebibytes_before": before,
        "conversion_mebibytes_peak": conversion_peak,
        **{f"{name.replace(' ', '_')}_microseconds": value * 1e6 for name, value in seconds.items()},
        "storage_of_memory": seconds["storage"] / seconds["memory"],
        "maps_only_of_memory": seconds["maps only"] / seconds["memory"],
        "training_mebibytes_before": start,
        "training_mebibytes": training,
        "training_mebibytes_peak": peak,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=10_000_000)
    parser.add_argument("--frames", type=int, default=None, help="measure stacks of so many frames instead")
    parser.add_argument("--observation", type=int, default=78)
    parser.add_argument("--action", type=int, default=12)
    parser.add_argument("--turns", type=int, default=100, help=f"of {_DRAWS_A_TURN} batches from each")
    parser.add_argument("--updates", type=int, default=200, help="of training, for its memory")
    parser.add_argument("--draws", type=int, default=5_000, help="of batches before them")
    parser.add_argument("--folder", type=Path, default=None, help="for the data (default: the system's temporary one)")
    parser.add_argument("--json", type=Path, default=None, help="write the same figures to this file")
    options = parser.parse_args(arguments)
    machine = describe_machine()
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    folder = Path(tempfile.mkdtemp(prefix="data-sampling-", dir=options.folder))
    try:
        row = measure(options, folder) if options.frames is None else measure_frames(options, folder)
    finally:
        shutil.rmtree(folder)
    print(_told(row) if options.frames is None else _told_of_frames(row))
    if options.json is not None:
        options.json.write_text(json.dumps({"benchmark": "data_sampling", **machine, **row}, indent=2) + "\n")


def _told_of_frames(row: dict[str, Any]) -> str:
    batch, first = row["batch_milliseconds"], row["first_batches_milliseconds"]
    memory = "{}: {:.0f} MiB of its own, {:.0f} with what is mapped"
    return (
        f"{row['frames']:,} frames: {row['stored_gigabytes']:.2f} GB stored\n"
        f"a batch of {STACKED_BATCH} stacks of {STACK} in {batch:.1f} ms ({1e3 / batch:.1f} a second), "
        f"the first ones in {first:.1f} ms\n"
        f"{memory.format('drawing', row['drawing_mebibytes_own'], row['drawing_mebibytes_resident'])}; "
        f"{memory.format('training', row['training_mebibytes_own'], row['training_mebibytes_resident'])}; "
        f"{row['training_mebibytes_peak']:.0f} at the peak of an update"
    )


def _told(row: dict[str, Any]) -> str:
    return (
        f"{row['transitions']:,} transitions: {row['source_gigabytes']:.2f} GB in D4RL's layout, "
        f"{row['stored_gigabytes']:.2f} GB stored\n"
        f"conversion: {row['conversion_seconds']:.1f} s, {row['conversion_mebibytes_peak']:.0f} MiB resident at most "
        f"({row['conversion_mebibytes_before']:.0f} before)\n"
        f"a batch of {BATCH} from memory {row['memory_microseconds']:.0f} µs, from storage "
        f"{row['storage_microseconds']:.0f} µs: {row['storage_of_memory']:.2f} times; through maps only "
        f"{row['maps_only_of_memory']:.2f} times\n"
        f"training: {row['training_mebibytes']:.0f} MiB resident at most "
        f"({row['training_mebibytes_before']:.0f} before)"
    )


if __name__ == "__main__":
    main()
