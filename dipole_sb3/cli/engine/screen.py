"""How far all tasks are: bars on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_SECONDS_BETWEEN_LINES = 60.0


class Screen:
    """One line for each task that has begun; use it as a context manager.

    :param names: of the tasks.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = names
        self._width = max(map(len, names))
        self._terminal = sys.stdout.isatty()
        # Options of Hydra have brackets, which are markup to Rich.
        name, what = (TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[what]}"))
        columns = name, BarColumn(20), what, TimeElapsedColumn()
        self._progress = Progress(*columns, console=Console(file=sys.stdout), disable=not self._terminal)
        self._bars: dict[int, TaskID] = {}
        self._words: dict[int, str] = {}
        self._started: dict[int, float] = {}
        self._ended = 0
        self._last_line = time.monotonic()

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def say(self, sentence: str) -> None:
        """A line that stays."""
        if self._terminal:
            self._progress.console.print(sentence, markup=False, highlight=False)
        else:
            print(sentence, flush=True)

    def show(self, number: int, what: str, part: float) -> None:
        """How far a task is.

        :param part: 0 to 1.
        """
        if number not in self._started:
            self._started[number] = time.monotonic()
            if not self._terminal:
                self.say(f"{self._names[number]}: {what}")
        if self._terminal:
            if number not in self._bars:
                name = self._names[number].ljust(self._width)
                self._bars[number] = self._progress.add_task(name, total=1.0, what=what)
            self._progress.update(self._bars[number], completed=part, what=what)
            return
        self._words[number] = what
        if time.monotonic() - self._last_line > _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            for each, now in self._words.items():
                self.say(f"{self._names[each]}: {now}")

    def end(self, number: int, how: str) -> None:
        """A task has ended."""
        self._ended += how == "done"
        self._words.pop(number, None)
        bar = self._bars.pop(number, None)
        if bar is not None:
            self._progress.remove_task(bar)
        seconds = time.monotonic() - self._started.get(number, time.monotonic())
        self.say(f"[{self._ended}/{len(self._names)}] {self._names[number]}: {how}, {seconds:.0f} s")
