"""The text that a driving agent is told, as part of a graph: numbers become the ids of its tokeniser.

The text is always the same but for the command and four numbers with one decimal, so that tables hold all of it.
"""

from __future__ import annotations

from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from dipole_sb3.driving.model.text import texts_of
from dipole_sb3.driving.scene import COMMANDS, Observation

if TYPE_CHECKING:
    from dipole_sb3.driving.model.text import Tokeniser

LARGEST = 99.9
"""m/s and m/s²: beyond it, the graph tells this number."""
_TENTHS = 1_000
_NOTHING = -1
"""What is left out of the text."""
_CHECKED = 500


class ToldText(nn.Module):
    """Ids of the text: ``tokenise(texts_of(observation))`` of one observation.

    :param tokenise: of the agent.
    :raises ValueError: its ids of a number depend on what stands beside it, or the longest text is cut.
    """

    heads: Tensor
    numbers: Tensor

    def __init__(self, tokenise: Tokeniser) -> None:
        super().__init__()
        self._tokenise = tokenise
        shown = np.zeros((2 * _TENTHS, 4))
        shown[:_TENTHS, 0] = np.arange(_TENTHS) / 10
        # -0.04 m/s is told as -0.0.
        shown[_TENTHS:, 0] = -shown[:_TENTHS, 0]
        rows = self._ids(np.zeros(len(shown), np.int64), shown)
        before = _shared(rows)
        after = _shared([row[::-1] for row in rows])
        numbers = [row[before : len(row) - after] for row in rows]
        # One number at a time differs from zero: what comes before it are words, and the zeros before that.
        parts, start = [], 0
        for slot in range(1, 4):
            other = np.zeros((3, 4))
            other[1:, slot] = 1.1, -1.1
            end = _shared(self._ids(np.zeros(3, np.int64), other))
            parts.append(rows[0][before + start + len(numbers[0]) : end])
            start = end - before
        last = rows[0][before + start + len(numbers[0]) :]
        rest = len(rows[0]) - before
        heads = [row[: len(row) - rest] for row in self._ids(np.arange(len(COMMANDS)), np.zeros((len(COMMANDS), 4)))]
        self.heads = nn.Buffer(_table(heads))
        self.numbers = nn.Buffer(_table(numbers))
        for index, part in enumerate((*parts, last)):
            self.register_buffer(f"between_{index}", torch.tensor(part, dtype=torch.int64))
        self._require_equal()

    def _ids(self, commands: Any, numbers: Any) -> list[list[int]]:
        """Of texts, without the padding.

        :param numbers: velocity and acceleration, [texts, 4].
        """
        count = len(commands)
        nothing = np.zeros((count, 0))
        told = Observation(nothing, nothing, numbers[:, :2], numbers[:, 2:], commands)  # type: ignore[arg-type]
        rows = self._tokenise(texts_of(told))
        self.length, self.padding = rows.shape[1], int(rows[0, -1])
        if not (rows[:, -1] == self.padding).all():
            raise ValueError(f"texts of {self.length} tokens are cut, expected room for the longest text")
        return [row[: int(np.argmax(row == self.padding))].tolist() for row in rows]

    def forward(self, command: Tensor, velocity: Tensor, acceleration: Tensor) -> Tensor:
        """Command [], int64, velocity [2] and acceleration [2], float32 → ids [text tokens], int64."""
        numbers = torch.cat([velocity, acceleration])
        # Of a float32, ten times is exact in double precision, so that it is rounded as Python rounds its text.
        tenths = (numbers.double().abs() * 10).round().clamp(max=_TENTHS - 1).long()
        # The sign of zero, too.
        told = self.numbers[tenths + _TENTHS * (1 / numbers < 0).long()]
        pieces = [self.heads[command]]
        for index in range(4):
            pieces += [told[index], self.get_buffer(f"between_{index}")]
        ids = torch.cat(pieces)
        kept = ids != _NOTHING
        # What is left out goes to a place behind the text.
        places = torch.where(kept, kept.long().cumsum(0) - 1, self.length)
        text = torch.full((self.length + 1,), self.padding, dtype=torch.int64)
        return text.scatter(0, places, ids)[: self.length]

    def _require_equal(self) -> None:
        random = np.random.default_rng(0)
        numbers = (random.normal(size=(_CHECKED, 4)) * random.choice([0.05, 1, 10, 30], (_CHECKED, 4))).astype(
            np.float32
        )
        numbers = numbers.clip(-LARGEST, LARGEST)
        commands = random.integers(len(COMMANDS), size=_CHECKED)
        expected = self._ids(commands, numbers)
        for command, row, ids in zip(commands, torch.as_tensor(numbers), expected, strict=True):
            found = self(torch.tensor(command), row[:2], row[2:]).tolist()
            if found != ids + [self.padding] * (self.length - len(ids)):
                raise ValueError(
                    "the agent's tokeniser cannot be put into a graph: its ids of a number depend on what stands "
                    f"beside it (command {COMMANDS[command]}, numbers {row.tolist()})"
                )


def _table(rows: list[list[int]]) -> Tensor:
    """Rows of ids in one width."""
    width = max(map(len, rows))
    return torch.tensor([row + [_NOTHING] * (width - len(row)) for row in rows])


def _shared(rows: list[list[int]]) -> int:
    """How many of their first ids all rows have in common."""
    return sum(1 for _ in takewhile(lambda ids: len(set(ids)) == 1, zip(*rows, strict=False)))
