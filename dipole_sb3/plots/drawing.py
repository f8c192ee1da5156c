"""What all pictures share: style, colours, and a file that appears only when it is complete."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dipole_sb3.common.files import replaced_when_complete

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D1F")
"""Colours for every type of colour vision (Okabe and Ito; their yellow is too pale on white and is darkened here)."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
NEGATIVE, POSITIVE, GUIDED = COLOURS[1], COLOURS[0], COLOURS[2]
MUTED = "#555555"

_STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.labelsize": 11,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E3E3E3",
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "figure.constrained_layout.w_pad": 0.08,
    "figure.constrained_layout.h_pad": 0.08,
}


@contextmanager
def drawing(path: str | Path, width: float, height: float) -> Iterator[Figure]:
    """An empty figure that is written as a PNG file when the block ends without an exception.

    It does not use pyplot, so the caller's figures and matplotlib backend are not affected.

    :param path: the file; it appears only when it is complete.
    :param width: in inches; 150 pixels per inch.
    :param height: in inches.
    :raises ImportError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("pictures need matplotlib: pip install 'dipole-sb3[plots]'") from error
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        yield figure
        image = _compressed(figure)
    with replaced_when_complete(Path(path)) as file:
        file.write(image)


def _compressed(figure: Figure) -> bytes:
    """PNG with a palette of 256 colours: a third of the size, with no visible difference in drawings like ours."""
    from PIL import Image

    pixels, image = io.BytesIO(), io.BytesIO()
    figure.savefig(pixels, format="png", dpi=DPI)
    quantized = (
        Image.open(pixels).convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    )
    quantized.save(image, format="png", optimize=True, dpi=(DPI, DPI))
    return image.getvalue()
