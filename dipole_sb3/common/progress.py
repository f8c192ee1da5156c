"""How far a long task is: a bar in a terminal and in a notebook, a line a minute in a log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 60


def progress_bar(shown: bool = True, **options: Any) -> tqdm[Any]:
    """A progress bar that also suits what is no terminal: a log file, a job's output, a service's journal.

    There a line says each minute how far it is, and a last one that it has ended; what is done in less says nothing.

    :param shown: False: it does nothing.
    :param options: tqdm's; ``total`` and ``desc`` at least, ``unit`` as it follows a number, e.g. ``" episodes"``.
    """
    if not shown or sys.stderr.isatty() or "ipykernel" in sys.modules:
        return tqdm(disable=not shown, **options)
    return _LineBar(
        **options,
        file=_Lines(),
        miniters=1,
        mininterval=_SECONDS_BETWEEN_LINES,
        delay=_SECONDS_BETWEEN_LINES,
        bar_format="{desc}: {n_fmt} of {total_fmt}{unit}, {elapsed} passed, {remaining} left",
    )


class _LineBar(tqdm):  # type: ignore[misc]
    def set_description_str(self, desc: str | None = None, refresh: bool | None = True) -> None:
        """Without a line of its own: it is due when the minute is over."""
        super().set_description_str(desc, refresh=False)


class _Lines:
    """Writes what tqdm would draw over itself as lines of their own, none twice."""

    def __init__(self) -> None:
        self._last = ""

    def write(self, text: str) -> None:
        line = text.strip()
        if line and line != self._last:
            print(line, file=sys.stderr, flush=True)
            self._last = line

    def flush(self) -> None:
        """tqdm asks for it; every line is flushed."""
