"""All that only a machine with an accelerator can tell, in nine minutes: tests, speed, and a real task learned there.

    python benchmarks/accelerator.py

No network and no argument. It ends within nine minutes by its own clock. What it finds, it writes as it goes to
benchmarks/results/accelerator-DATE-DEVICE.json: a run that is cut off has left what it had. Its exit status is 1 when
a CUDA test fails or a part breaks; running out of time is neither.

  tests   the suite's CUDA tests
  data    cube-single-play, made by the machine's cores beside the tests in at most two minutes: as many episodes as
          that gives
  speed   the updates of OGBench's and ExORL's configurations, eager, compiled and captured in CUDA graphs, with
          products in single precision, TF32 and bfloat16, 1 to 32 runs at once; beside each the bound that its kernels
          set, and the memory. The most telling ones come first, for the time may not be enough for all; what does not
          fit or does not run has a row that says so, and costs no other
  learn   eight seeds of the cube's task 2 at once with the paper's hyperparameters for the time that is left, and
          their success over ω beside the paper's

Where no package index is reachable, it needs torch with CUDA and Triton, NumPy, SciPy, pandas, Matplotlib, rich, tqdm,
TensorBoard, filelock, PyYAML, lxml, absl-py, protobuf, cloudpickle, pytest and hypothesis there, and the wheels that

    python benchmarks/accelerator_wheels.py FOLDER

gathers: 45 MB, since it leaves out of dm_control what OGBench's arms do not use (50 of its 56 MB). There:

    pip install --no-index --no-deps --target SITE FOLDER/*.whl; export PYTHONPATH=SITE:.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerator_parts import Clock, write
from train_speed import describe_machine

ROOT = Path(__file__).resolve().parents[1]
ENDS = {"tests": 0.2, "data": 0.22, "speed": 0.55, "learn": 0.98}
"""When each part ends at the latest, as a share of the whole time."""

_GRACE = 5.0
"""Seconds that a part has to end by itself after its time."""


class Part:
    """A part in a process of its own, so that one that breaks or hangs costs nothing but itself."""

    def __init__(self, name: str, command: list[str], folder: Path) -> None:
        self._file, self._log = folder / f"{name}.json", folder / f"{name}.log"
        paths = [str(ROOT), str(ROOT / "export"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        with self._log.open("w") as log:
            # A session of its own: its children end with it.
            self._process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment, cwd=ROOT, start_new_session=True
            )

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Ends the part and its children now."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def found(self) -> dict[str, Any]:
        """What it has written so far, and how it ended."""
        found: dict[str, Any] = json.loads(self._file.read_text()) if self._file.exists() else {}
        status = self._process.poll()
        if status == -signal.SIGKILL:
            found.setdefault("ended", "out of time")
        elif status not in (None, 0):
            found["ended"] = f"broke with exit status {status}"
            found["last lines"] = self._log.read_text(errors="replace").splitlines()[-15:]
        return found

    @property
    def broke(self) -> bool:
        return self._process.poll() not in (None, 0, -signal.SIGKILL)


def tests_command(found: Path) -> list[str]:
    """The suite's CUDA tests; other files are not even collected, for they may need what is not installed."""
    files = [
        str(file) for file in sorted((ROOT / "tests").rglob("test_*.py")) if "pytest.mark.cuda" in file.read_text()
    ]
    options = ["-m", "cuda", "-q", "-rA", "-p", "no:cacheprovider", "--junitxml", str(found)]
    return [sys.executable, "-m", "pytest", *files, *options]


def tests_found(part: Part, xml: Path) -> dict[str, Any]:
    """Numbers of tests, read from pytest's file; without one, what the part says."""
    found = part.found()
    if xml.exists():
        suite = re.search(r"<testsuite [^>]*>", xml.read_text())
        numbers = dict(re.findall(r'(errors|failures|skipped|tests|time)="([\d.]+)"', suite.group())) if suite else {}
        found |= {key: float(number) if key == "time" else int(number) for key, number in numbers.items()}
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="for all of it (9)")
    parser.add_argument("--device", default="cuda", help="of torch (cuda)")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results", help="folder of the JSON file")
    parser.add_argument("--small", action="store_true", help="every part at tiny size, to try the script on a CPU")
    options = parser.parse_args()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise SystemExit("accelerator: torch finds no CUDA device here; --device cpu --small tries the script")
    start = time.time()
    clock = Clock(start, {part: share * 60 * options.minutes for part, share in ENDS.items()})
    machine = describe_machine()
    if device.type == "cuda":
        machine |= {"device": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
    name = re.sub(r"[^A-Za-z0-9]+", "-", str(machine.get("device", "cpu"))).strip("-")
    file = options.out / f"accelerator-{datetime.date.today().isoformat()}-{name}.json"
    options.out.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="accelerator-"))
    print(f"{', '.join(f'{key} {value}' for key, value in machine.items())}\nmodels and logs in {folder}", flush=True)
    xml = folder / "tests.xml"
    running: dict[str, Part] = {}

    def save() -> None:
        parts = {key: tests_found(part, xml) if key == "tests" else part.found() for key, part in running.items()}
        seconds = round(time.time() - start, 1)
        write(file, {"benchmark": "accelerator", **machine, "small": options.small, "seconds": seconds, **parts})

    def begin(part: str, command: list[str] | None = None) -> None:
        script = [sys.executable, str(Path(__file__).with_name("accelerator_parts.py")), part, str(folder)]
        script += [options.device, json.dumps(asdict(clock)), "small" if options.small else "full"]
        running[part] = Part(part, script if command is None else command, folder)

    def follow(*parts: str) -> None:
        while any(running[part].is_running and clock.left(part) > -_GRACE for part in parts):
            time.sleep(0.5)
            save()
        for part in parts:
            running[part].stop()
            save()
            print(f"{time.time() - start:5.0f} s  {part}: {running[part].found().get('ended', 'done')}", flush=True)

    try:
        begin("tests", tests_command(xml))
        begin("data")
        follow("tests", "data")
        begin("speed")
        follow("speed")
        begin("learn")
        follow("learn")
    finally:
        for part in running.values():
            part.stop()
        save()
    print(file)
    failed = tests_found(running["tests"], xml)
    return int(any(part.broke for part in running.values()) or bool(failed.get("failures") or failed.get("errors")))


if __name__ == "__main__":
    sys.exit(main())
