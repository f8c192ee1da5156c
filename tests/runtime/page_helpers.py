"""What the tests of a bundle's page share: reading from the page, and the policy beside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from dipole_runtime import Bundle, GuidedPolicy
from headless_browser import Tab

Files = dict[str, bytes]
Open = Callable[..., Tab]


def policy_of(files: Files) -> GuidedPolicy:
    return GuidedPolicy.from_bundle(Bundle.from_files(files, "robot's bundle"))


def settled(tab: Tab) -> None:
    """Until the page shows everything for what is set."""
    tab.wait("document.body.dataset.settled === 'true'")


def shown_action(tab: Tab) -> np.ndarray[Any, Any]:
    """What the bars show, in full."""
    settled(tab)
    return np.array(numbers(tab, "#bars li", "dataset.value"))


def numbers(tab: Tab, selector: str, key: str) -> list[float]:
    """A property of every element that matches, as JavaScript reads numbers."""
    found: list[float] = tab.run(
        f"[...document.querySelectorAll({json.dumps(selector)})].map((element) => Number(element.{key}))"
    )
    return found


def texts(tab: Tab, selector: str) -> list[str]:
    """Of every element that matches."""
    found: list[str] = tab.run(
        f"[...document.querySelectorAll({json.dumps(selector)})].map((element) => element.textContent)"
    )
    return found


def text(tab: Tab, selector: str) -> str:
    """Of the first element that matches."""
    return texts(tab, selector)[0]


def click(tab: Tab, selector: str, index: int = 0) -> None:
    tab.run(f"document.querySelectorAll({json.dumps(selector)})[{index}].click()")
