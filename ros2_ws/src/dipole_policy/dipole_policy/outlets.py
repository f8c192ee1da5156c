"""The contract's actions as the wire's outlets."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from dipole_policy.action import Command
from dipole_policy.contract import ActionEntry, Contract
from dipole_policy.holder import Loaded
from dipole_policy.observation import Inputs, Start
from dipole_policy.wire import Outlet


def outlets(
    contract: Contract,
    loaded: Loaded,
    inputs: Inputs,
    now_ns: Callable[[], int],
    publish: Callable[[int, Command], None],
) -> list[Outlet]:
    """One outlet for each action of the contract.

    :param loaded: the bundle that drives first; those that follow it have the same action.
    :param now_ns: the node's clock.
    :param publish: sends a command on the action with this index.
    """
    starts = {start.part.start: start for start in loaded.starts}

    def outlet(index: int, entry: ActionEntry, part: slice) -> Outlet:
        within = None if entry.hold_within is None else np.array(entry.hold_within)
        measured = _measured(starts.get(part.start), inputs, now_ns)
        return Outlet(lambda command: publish(index, command), part, entry.on_stop, measured, within)

    placed = zip(contract.actions, loaded.parts, strict=True)
    return [outlet(index, entry, part) for index, (entry, part) in enumerate(placed)]


def _measured(start: Start | None, inputs: Inputs, now_ns: Callable[[], int]) -> Callable[[], Command | None]:
    def measured() -> Command | None:
        if start is None:
            return None
        try:
            return start.read(inputs.snapshot(), now_ns())
        # A stop must go out whatever is wrong with the inputs, also in a way that nobody foresaw.
        except Exception:
            return None

    return measured
