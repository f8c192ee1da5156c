"""A film of the same start at several settings side by side: as an animation, and as a strip of stills."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dipole_sb3.common.files import replaced_when_complete
from dipole_sb3.plots.drawing import drawing

if TYPE_CHECKING:
    from PIL import ImageFont

_TITLE = 26
"""Height of the line above a panel, in pixels."""

_GAP = 6
_COLOURS = 256


def plot_film_strip(frames: np.ndarray, titles: Sequence[str], times: np.ndarray, path: str | Path) -> None:
    """Six stills of every panel, one panel per row.

    :param frames: [panels, time, height, width, 3], uint8.
    :param titles: one per panel.
    :param times: of the frames, in seconds, shape [time].
    :param path: PNG file.
    """
    panels, length = frames.shape[:2]
    shown = np.linspace(0, length - 1, 6).round().astype(int)
    with drawing(path, 1.75 * len(shown) + 0.4, 1.95 * panels + 0.2) as figure:
        grid = figure.subplots(panels, len(shown), squeeze=False)
        for row, panel, title in zip(grid, frames, titles, strict=True):
            for axes, index in zip(row, shown, strict=True):
                axes.imshow(panel[index], interpolation="antialiased")
                axes.set(xticks=[], yticks=[])
                axes.grid(False)
                for spine in axes.spines.values():
                    spine.set_visible(False)
            row[0].set_ylabel(title)
        for axes, index in zip(grid[0], shown, strict=True):
            axes.set_title(f"{times[index]:.1f} s")


def write_animation(frames: np.ndarray, titles: Sequence[str], seconds_per_frame: float, path: str | Path) -> None:
    """All panels side by side as an endless GIF.

    :param frames: [panels, time, height, width, 3], uint8.
    :param titles: one per panel, written above it.
    :param seconds_per_frame: GIF counts hundredths of a second.
    :param path: GIF file; it appears when it is complete.
    """
    from PIL import Image, ImageDraw

    panels, length, height, width = frames.shape[:4]
    canvas = Image.new("RGB", (panels * (width + _GAP) - _GAP, height + _TITLE), "white")
    pen, font = ImageDraw.Draw(canvas), title_font(15)
    for index, title in enumerate(titles):
        left = index * (width + _GAP)
        pen.text((left + width / 2, _TITLE / 2), title, fill="black", font=font, anchor="mm")

    def page(time: int) -> Image.Image:
        for index in range(panels):
            canvas.paste(Image.fromarray(frames[index, time]), (index * (width + _GAP), _TITLE))
        return canvas

    # One palette for all, so that pixels that do not change cost nothing; small things of a strong colour keep it.
    several = Image.new("RGB", (canvas.width, 4 * canvas.height))
    for index, time in enumerate(np.linspace(0, length - 1, 4).round().astype(int)):
        several.paste(page(time), (0, index * canvas.height))
    palette = several.quantize(_COLOURS, method=Image.Quantize.MAXCOVERAGE)
    pictures = [page(time).quantize(palette=palette, dither=Image.Dither.NONE) for time in range(length)]
    written, duration = io.BytesIO(), round(1000 * seconds_per_frame)
    pictures[0].save(written, format="GIF", save_all=True, append_images=pictures[1:], duration=duration, loop=0)
    with replaced_when_complete(Path(path)) as file:
        file.write(written.getvalue())


def title_font(size: int) -> ImageFont.FreeTypeFont:
    """Matplotlib's own font: Pillow's has no Greek letters."""
    from matplotlib import font_manager
    from PIL import ImageFont

    return ImageFont.truetype(font_manager.findfont("DejaVu Sans"), size)
