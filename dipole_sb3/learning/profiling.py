"""Where training time goes: torch's profiler over a few updates, as a table and as a trace."""

from __future__ import annotations

import gzip
import pathlib
import tempfile
import time
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, schedule

from dipole_sb3.common.files import cannot_write, replaced_when_complete
from dipole_sb3.common.profiler_sections import PREFIX
from dipole_sb3.learning.callbacks import IterationCallback

TRACE = "trace.json.gz"
TABLE = "table.txt"
WAIT = 20
"""Updates before the profiler starts; compiling and capturing are finished by then."""
WARMUP = 5
"""Profiled updates that are discarded, because the first ones are slow."""
UPDATES = 20
"""Updates that are kept."""

_STEP = "ProfilerStep"
_GRAPHS = {"compiled": "Torch-Compiled Region", "captured": "cudaGraphLaunch"}
_OPERATORS = 10
_NAME_WIDTH = 58


class TrainingProfile(IterationCallback):
    """Profiles a few updates of ``learn()``; writes a table and a Chrome trace, and prints the table.

    Use: ``model.learn(…, callback=TrainingProfile("folder"))``. The profile begins after 25 updates and covers the next
    20. If several updates run at once (online training, CUDA graphs), it begins later and may cover more. Before and
    after it, training runs at full speed. If training ends during the profile, the profile covers the updates until
    then.

    =============  =================================================================================
    table.txt      milliseconds per update by section and by operator, see :func:`format_profile`
    trace.json.gz  every operator, for ui.perfetto.dev or chrome://tracing
    =============  =================================================================================

    :param folder: created if it does not exist; an earlier profile in it is replaced.
    :raises OSError: the folder cannot be created (when training starts), or a file cannot be written (when the profile
        ends).
    :raises RuntimeError: another profile is running in this process. If models learn together, profile only the first:
        its profile shows the updates of all.
    """

    def __init__(self, folder: str | pathlib.Path) -> None:
        super().__init__()
        self.folder = pathlib.Path(folder)
        self._profiler: profile | None = None
        self._is_done = False
        self._start = self._seen = self._half_way = 0
        self._since = self._unprofiled_ms = 0.0

    def _on_training_start(self) -> None:
        super()._on_training_start()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        self._start, self._seen, self._half_way = self.model._n_updates, 0, 0
        self._is_done, self._profiler = False, None

    def _on_iteration_end(self) -> bool:
        updates = self.model._n_updates - self._start
        if self._is_done or updates == self._seen:
            return True
        self._seen = updates
        if self._profiler is not None:
            self._go_on(self._profiler, updates)
        elif updates >= WAIT:
            # Measured before the profiler starts: it slows training down, and the table says by how much.
            self._synchronize()
            waited = time.perf_counter() - self._since
            self._unprofiled_ms = 1e3 * waited / (updates - self._half_way) if self._half_way else float("nan")
            self._profiler = self._started()
            self._kept_from = 0
        elif not self._half_way and updates >= WAIT // 2:
            self._synchronize()
            self._half_way, self._since = updates, time.perf_counter()
        return True

    def _started(self) -> profile:
        cuda = [ProfilerActivity.CUDA] if self.model.device.type == "cuda" else []
        # _go_on() ends the profile earlier where iterations have many updates, as online.
        steps = schedule(wait=0, warmup=WARMUP, active=UPDATES + 1, repeat=1)
        profiler = profile(activities=[ProfilerActivity.CPU, *cuda], schedule=steps, acc_events=True)
        profiler.start()
        return profiler

    def _go_on(self, profiler: profile, updates: int) -> None:
        if profiler.step_num < WARMUP:
            self._kept_from = updates
        elif updates - self._kept_from >= UPDATES:
            self._close()
            return
        if profiler.step_num == WARMUP - 1:
            self._synchronize()
        try:
            profiler.step()
        except RuntimeError as error:
            raise RuntimeError(
                f"cannot profile into {self.folder}: another profile is under way in this process; expected one"
            ) from error

    def _on_training_end(self) -> None:
        if self._is_done:
            return
        if self._profiler is not None and self._profiler.step_num >= WARMUP and self._seen > self._kept_from:
            self._close()
            return
        if self._profiler is not None:
            self._profiler.stop()
        self._is_done, self._profiler = True, None
        print(f"No profile: training ended after {self._seen} updates, before those that are profiled")

    def _close(self) -> None:
        """Ends the profile, writes the files and prints the table."""
        assert self._profiler is not None
        # Kernels that are still running belong to the profile.
        self._synchronize()
        self._profiler.stop()
        profiler, self._profiler, self._is_done = self._profiler, None, True
        device = "CPU"
        if self.model.device.type == "cuda":
            device = torch.cuda.get_device_name(self.model.device)
        found = summarize(profiler.events(), self._seen - self._kept_from)  # type: ignore[no-untyped-call]
        text = (
            f"{format_profile(found)}\n\n"
            f"Just before, without the profiler, an update took {self._unprofiled_ms:.3f} ms. {device}, threads: "
            f"{torch.get_num_threads()}, torch {torch.__version__}\n"
        )
        trace = gzip.compress(_chrome_trace(profiler, self.folder))
        with replaced_when_complete(self.folder / TRACE) as file:
            file.write(trace)
        with replaced_when_complete(self.folder / TABLE) as file:
            file.write(text.encode())
        print(f"\n{text}This table and the trace (for ui.perfetto.dev) are in {self.folder}/", flush=True)

    def _synchronize(self) -> None:
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)


def _chrome_trace(profiler: profile, folder: pathlib.Path) -> bytes:
    """The trace as JSON, exported through a temporary file on the disk where the result will be stored."""
    try:
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as beside:
            path = pathlib.Path(beside) / "trace.json"
            profiler.export_chrome_trace(str(path))
            # The export writes all or nothing, and does not report which.
            return path.read_bytes()
    except OSError as error:
        raise OSError(f"cannot write {folder / TRACE}: the profiler left no trace, expected room for it") from error


@dataclass
class Row:
    """One line of a table: milliseconds on the host, and milliseconds of the kernels launched during that time."""

    name: str
    depth: int = 0
    ms: float = 0.0
    kernel_ms: float = 0.0
    count: int = 0


@dataclass(frozen=True)
class Profile:
    """The result of a profile.

    =============  =================================================================================================
    updates        number of updates
    wall_ms        from its beginning to its end
    sections       each without the sections inside it, in the order of their first start; last: outside all sections
    operators      with their own time, without the operators that they call, longest first; on CUDA: kernels
    has_kernels    whether a device runs them
    hides          why sections inside the update are not visible: it is "compiled", "captured" or both
    =============  =================================================================================================
    """

    updates: int
    wall_ms: float
    sections: Sequence[Row]
    operators: Sequence[Row]
    has_kernels: bool
    hides: Sequence[str]


def summarize(events: Iterable[FunctionEvent], updates: int) -> Profile:
    """Sums torch's events by section and by operator.

    :param events: of one window of a schedule: ``torch.profiler.profile.events()``.
    :param updates: in the window, at least 1.
    """
    events = list(events)
    host = [event for event in events if event.device_type.name == "CPU"]
    kernels = [event for event in events if event.device_type.name != "CPU" and not event.is_user_annotation]
    steps = [event.time_range for event in host if event.name.startswith(_STEP)]
    begin, end = min(step.start for step in steps), max(step.end for step in steps)
    marked = [event for event in host if event.name.startswith(PREFIX)]
    timeline = _Timeline(marked, begin, end)
    # A launch and its kernels share one id; all kernels of a captured graph have the id of the graph's launch.
    launches = {event.id: event.time_range.start for event in host if event.name.startswith("cu")}
    for kernel in kernels:
        timeline.at(launches.get(kernel.id, end)).kernel_ms += _microseconds(kernel) / 1e3
    if kernels:
        operators = _totals((kernel.name, _microseconds(kernel)) for kernel in kernels)
    else:
        unmarked = (event for event in host if not event.name.startswith((_STEP, PREFIX)))
        operators = _totals((event.name, event.self_cpu_time_total) for event in unmarked)
    hides = [how for how, name in _GRAPHS.items() if any(event.name.startswith(name) for event in host)]
    return Profile(updates, (end - begin) / 1e3, timeline.rows(), operators, bool(kernels), hides)


class _Timeline:
    """Tells which section is the innermost one at a given time.

    :param events: the sections of one thread.
    :param begin: start of the profile, in µs.
    :param end: end of the profile, in µs; sections are cut off at both.
    """

    def __init__(self, events: Sequence[FunctionEvent], begin: float, end: float) -> None:
        self._rows: dict[str, Row] = {}
        self._outside = Row("other")
        self._changes: list[tuple[float, Row]] = [(begin, self._outside)]
        self._open: list[tuple[float, Row]] = []
        for event in sorted(events, key=lambda event: (event.time_range.start, -event.time_range.end)):
            start, stop = max(event.time_range.start, begin), min(event.time_range.end, end)
            if start < stop:
                self._close_until(start)
                self._begin(event.name.removeprefix(PREFIX), start, stop)
        self._close_until(end)
        for (since, row), (until, _) in pairwise([*self._changes, (end, self._outside)]):
            row.ms += (until - since) / 1e3

    def _begin(self, name: str, start: float, stop: float) -> None:
        row = self._rows.setdefault(name, Row(name, depth=len(self._open)))
        row.count += 1
        self._changes.append((start, row))
        self._open.append((stop, row))

    def _close_until(self, time_us: float) -> None:
        while self._open and self._open[-1][0] <= time_us:
            closed_at, _ = self._open.pop()
            self._changes.append((closed_at, self._open[-1][1] if self._open else self._outside))

    def rows(self) -> list[Row]:
        """In the order of their first start; the last row is the time outside all sections."""
        return [*self._rows.values(), self._outside]

    def at(self, time_us: float) -> Row:
        """The innermost section at that time."""
        return self._changes[max(bisect_right(self._changes, time_us, key=lambda change: change[0]) - 1, 0)][1]


def _microseconds(event: FunctionEvent) -> float:
    return float(event.time_range.end - event.time_range.start)


def _totals(times: Iterable[tuple[str, float]]) -> list[Row]:
    rows: dict[str, Row] = {}
    for name, microseconds in times:
        row = rows.setdefault(name, Row(name))
        row.ms += microseconds / 1e3
        row.count += 1
    return sorted(rows.values(), key=lambda row: -row.ms)


def format_profile(profile: Profile) -> str:
    """A table that fits on one screen: sections, which add up to the whole time, and the ten slowest operators."""

    def line(row: Row, whole_ms: float, *, counted: bool) -> str:
        name = f"{'  ' * row.depth}{row.name}"
        name = name if len(name) <= _NAME_WIDTH else f"{name[: _NAME_WIDTH - 1]}…"
        text = f"{name:<{_NAME_WIDTH}} {row.ms / profile.updates:>9.3f} {100 * row.ms / whole_ms:>6.1f} %"
        if counted:
            return f"{text} {row.count / profile.updates:>9.1f}"
        return f"{text} {row.kernel_ms / profile.updates:>9.3f}" if profile.has_kernels else text

    wall = profile.wall_ms
    heading = f"{'Where the time goes':<{_NAME_WIDTH}} ms/update    share"
    total = Row("sum", ms=wall, kernel_ms=sum(row.kernel_ms for row in profile.sections))
    lines = [heading + ("   kernels" if profile.has_kernels else "")]
    lines += [line(row, wall, counted=False) for row in (*profile.sections, total)]
    lines.append(
        f"{profile.updates} updates in {wall / 1e3:.3f} s. A line leaves out what the lines under it count; other: "
        "Python, and what has no section."
    )
    if profile.hides:
        lines.append(
            f"Parts of the update are {' and '.join(profile.hides)} as one: their time is in the line around them, and "
            "in the lower table."
        )
    kind, whole = ("Kernels", total.kernel_ms) if profile.has_kernels else ("Operators by their own time", wall)
    lines += ["", f"{kind:<{_NAME_WIDTH}} ms/update    share     calls"]
    lines += [line(row, whole, counted=True) for row in profile.operators[:_OPERATORS]]
    return "\n".join(lines)
