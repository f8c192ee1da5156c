"""A process that measures when it is asked to, so that several can take turns."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class WaitingProcess:
    """It gives one line of JSON when it is ready, and one for every line that it reads; it ends with its input.

    :param command: its first part is a Python interpreter.
    :param environment: its environment variables; None: those of this process.
    :param benchmark: the program that asks, for messages.
    :raises SystemExit: it cannot be started, or ends without an answer (also from :meth:`asked`).
    """

    def __init__(self, command: Sequence[str], benchmark: Path, environment: Mapping[str, str] | None = None) -> None:
        self._command, self._benchmark = command, benchmark.stem
        try:
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        except OSError as error:
            raise SystemExit(
                f"{self._benchmark}: {command[0]} cannot be started ({error.strerror}), expected Python"
            ) from error
        self.ready = self._answer()
        """Its first answer."""

    def asked(self, question: object) -> Any:
        """Its answer to a line."""
        assert self._process.stdin is not None
        print(question, file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._benchmark}: {' '.join(self._command)} gave no answer, the messages above say why")
        return json.loads(line)

    def __enter__(self) -> WaitingProcess:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
