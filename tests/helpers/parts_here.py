"""What makes data in parts, without the worker processes that users have, which take seconds to start."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium


def in_this_process(
    make_part: Callable[[Any], None], parts: Sequence[Any], name: Callable[[Any], str], folder: Path
) -> Iterator[Any]:
    """The argument ``elsewhere`` of ``make_dataset`` and ``make_scenes``."""
    level = gymnasium.logger.min_level  # which OGBench's workers change
    try:
        for part in parts:
            make_part(part)
            yield part
    finally:
        gymnasium.logger.min_level = level
