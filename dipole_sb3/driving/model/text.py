"""What the agent is told in words: where the route leads, how fast it drives, and how its speed changes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dipole_sb3.driving.scene import COMMANDS, Observation

Tokeniser = Callable[[Sequence[str]], npt.NDArray[np.int64]]
"""Texts give ids [texts, tokens], padded to one length."""

_TOLD = {"left": "turn left", "straight": "go straight", "right": "turn right", "unknown": "drive on"}
_PAD = 1
"""As in BART's vocabulary."""
_VOCABULARY = ("<s>", "<pad>", "</s>", *"0123456789.-,;")
_WORDS = ("turn", "go", "drive", "left", "straight", "right", "on", "speed", "acceleration")


def texts_of(observation: Observation) -> list[str]:
    """One text for each of a batch: the command; speed in m/s and acceleration in m/s², ahead and to the left."""
    return [
        f"{_TOLD[COMMANDS[command]]}; speed {vx:.1f}, {vy:.1f}; acceleration {ax:.1f}, {ay:.1f}"
        for command, (vx, vy), (ax, ay) in zip(
            observation.command, observation.velocity, observation.acceleration, strict=True
        )
    ]


def own_tokeniser(length: int) -> Tokeniser:
    """A vocabulary of the words, digits and signs that :func:`texts_of` writes, for encoders with random weights."""
    ids = {token: index for index, token in enumerate((*_VOCABULARY, *_WORDS))}

    def tokenise(texts: Sequence[str]) -> npt.NDArray[np.int64]:
        rows = np.full((len(texts), length), _PAD, np.int64)
        for row, text in zip(rows, texts, strict=True):
            tokens = [ids[token] for token in ("<s>", *re.findall(r"[a-z]+|[\d.,;-]", text), "</s>")][:length]
            row[: len(tokens)] = tokens
        return rows

    return tokenise


def tokeniser_in(folder: Path, length: int) -> Tokeniser:
    """The tokeniser that lies beside a checkpoint of Florence-2.

    :raises ValueError: there is none.
    """
    from transformers import AutoTokenizer

    try:
        tokeniser = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{folder}: found no tokeniser, expected the files of a Florence-2 checkpoint (tokenizer.json)"
        ) from error

    def tokenise(texts: Sequence[str]) -> npt.NDArray[np.int64]:
        ids = tokeniser(list(texts), padding="max_length", truncation=True, max_length=length)["input_ids"]
        return np.asarray(ids, np.int64)

    return tokenise
