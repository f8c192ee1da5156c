"""A log that holds rows back until the first is complete: values that arrive late still get into their own row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from stable_baselines3.common.logger import KVWriter, Logger, SeqWriter


class HeldLog(KVWriter, SeqWriter):
    """Replaces all outputs of a logger until the row that it holds open is complete.

    What the logger has recorded so far belongs to that row. Rows written in the meantime follow it. The outputs end up
    as if the late values had been available at once.

    :param logger: logger whose outputs are held back.
    :param timestep: timestep of the row.
    :param wait: function that returns when the row is complete.
    """

    def __init__(self, logger: Logger, timestep: int, wait: Callable[[], None]) -> None:
        self._logger, self._outputs = logger, logger.output_formats
        self._rows: list[tuple[dict[str, Any], dict[str, tuple[str, ...]], int]] = []
        self.wait = wait
        logger.output_formats = [self]
        logger.dump(timestep)

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Keeps a copy of a row, because the logger empties its dictionaries afterwards."""
        self._rows.append((dict(key_values), dict(key_excluded), step))

    def write_sequence(self, sequence: list[str]) -> None:
        """Messages are not rows: they are written at once."""
        for output in self._outputs:
            if isinstance(output, SeqWriter):
                output.write_sequence(sequence)

    def finish(self, late: Mapping[str, Any]) -> None:
        """Gives the logger its outputs back, and writes the rows.

        :param late: values that complete the held row. If it is empty, the row has only what was recorded before; a
            row without any value is left out.
        """
        self._logger.output_formats = self._outputs
        if not self._rows:  # the logger is disabled
            return
        values, excluded, timestep = self._rows[0]
        if not (values or late):
            del self._rows[0]
        scratch = Logger(None, [])
        for name, value in late.items():
            scratch.record(name, value)
        scratch.record("time/total_timesteps", timestep, exclude="tensorboard")
        values.update(scratch.name_to_value)
        excluded.update(scratch.name_to_excluded)
        for row in self._rows:
            for output in self._outputs:
                if isinstance(output, KVWriter):
                    output.write(*row)

    def close(self) -> None:
        """Called when the logger is closed early: writes the rows that were held back, and closes it."""
        self.finish({})
        self._logger.close()


def complete_log(logger: Logger) -> None:
    """Waits until the row that the logger holds open, if any, is complete."""
    for output in list(logger.output_formats):
        if isinstance(output, HeldLog):
            output.wait()
