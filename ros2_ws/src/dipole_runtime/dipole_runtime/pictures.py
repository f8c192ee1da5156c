"""The camera pictures that a bundle takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PictureSpec:
    """One camera picture: uint8 [height, width, channels].

    :param key: its entry of a Dict observation; None: the observation is this picture and no Dict.
    :param channels: those of a frame × the frames that are stacked, oldest first.
    """

    key: str | None
    height: int
    width: int
    channels: int
