"""Loads bundles while another one drives, and swaps them between two inferences."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from dipole_runtime import GuidedAction, GuidedPolicy
from numpy.typing import NDArray

from dipole_policy.action import ActionLimits, ActionWriter, parts
from dipole_policy.contract import Contract
from dipole_policy.errors import ContractError, shown
from dipole_policy.fields import Describe
from dipole_policy.layout import ObservationLayout, PictureLayout, policy_layout
from dipole_policy.observation import EntryReader, HistoryReader, Start, entry_readers, start_readers
from dipole_policy.plan import PlanLayout, PlanWriter, plan_parts, require_no_plans
from dipole_policy.topic_reader import TopicReader

_Made = TypeVar("_Made")


@dataclass(frozen=True)
class PolicyOptions:
    """Options for running bundles.

    :param threads: number of threads for one inference, at least 1.
    :param deterministic: whether every inference starts from the same noise, so that equal observations give equal
        actions; with a deterministic policy they always do.
    :param num_candidates: candidates per decision; 0: the bundle's number.
    """

    threads: int = 1
    deterministic: bool = True
    num_candidates: int = 0


@dataclass(frozen=True, eq=False)
class Loaded:
    """Everything that changes with the bundle; the control loop uses one of these per period.

    :param path: the bundle's path, as given.
    :param writers: one for each of the contract's actions.
    :param parts: the elements of the action that each of those writers takes.
    :param starts: of those actions whose first command begins at a measured state.
    :param noise: the same for every inference; None: drawn, or not needed.
    """

    path: str
    policy: GuidedPolicy
    layout: ObservationLayout | PictureLayout | PlanLayout
    limits: ActionLimits
    writers: Sequence[ActionWriter | PlanWriter]
    parts: Sequence[slice]
    starts: Sequence[Start]
    noise: NDArray[np.float32] | None
    num_candidates: int | None

    def decide(self, observation: Any, omega: float | None, shadow: Sequence[float] = ()) -> list[GuidedAction]:
        """One run of the policy: the action for ω, then one for each shadow ω, from the same noise.

        :param observation: of the layout.
        :param omega: None: the policy has no ω, and so no shadow.
        """
        arranged: Any = self.layout.arrange(observation)
        if omega is None or not shadow:
            return [self.policy.act(arranged, omega, self.noise, num_candidates=self.num_candidates)]
        return self.policy.sweep(arranged, [omega, *shadow], self.noise, num_candidates=self.num_candidates)


class Fitting:
    """What a contract requires of every bundle.

    :param describe: descriptions of message types.
    :raises ContractError: the contract does not fit the message types.
    """

    def __init__(self, contract: Contract, describe: Describe, options: PolicyOptions) -> None:
        self.contract = contract
        self.readers: list[TopicReader] = self._named(lambda: entry_readers(contract, describe))
        self.start_readers: list[EntryReader | None] = self._named(lambda: start_readers(contract, describe))
        self._describe = describe
        self._options = options
        self._plan_writers: list[PlanWriter] = self._named(self._made_plan_writers)

    def _made_plan_writers(self) -> list[PlanWriter]:
        placed = [(where, entry) for where, entry in self.contract.placed_actions() if entry.frame is not None]
        histories = [reader for reader in self.readers if isinstance(reader, HistoryReader)]
        if placed and not histories:
            raise ContractError(f"{placed[0][0]} takes plans, expected an observation with function: history")
        return [PlanWriter(*one, histories[0], self._describe) for one in placed]

    @property
    def input_readers(self) -> list[TopicReader]:
        """Of everything that is listened to."""
        return [*self.readers, *(reader for reader in self.start_readers if reader is not None)]

    def load(self, path: str) -> Loaded:
        """Reads, checks, tests and warms up a bundle; takes seconds.

        :raises GuidedPolicyError: the bundle cannot be read, or acts differently than on the machine that made it.
        :raises ContractError: the bundle does not fit the contract.
        """
        options = self._options
        return self.fit(path, GuidedPolicy.load(path, threads=options.threads))

    def fit(self, path: str, policy: GuidedPolicy) -> Loaded:
        """As :meth:`load`, for a policy that is already loaded."""
        options, manifest, contract = self._options, policy.manifest, self.contract
        candidates = options.num_candidates or None
        noise = None
        if manifest.guidance is None:
            if options.num_candidates > 1:
                raise ContractError(
                    f"num_candidates is {options.num_candidates}, expected 0 or 1: bundle {path} holds a deterministic "
                    "policy, which has no candidates to choose from"
                )
        elif options.deterministic:
            noise = policy.deterministic_noise(candidates)

        def fit() -> Loaded:
            placed = contract.placed_actions()
            layout: ObservationLayout | PictureLayout | PlanLayout
            writers: Sequence[ActionWriter | PlanWriter]
            if manifest.plan is not None:
                at = plan_parts(contract, manifest)
                layout, writers = PlanLayout(self.readers, manifest), self._plan_writers
            else:
                require_no_plans(contract)
                at = parts(contract, manifest.action, self._describe)
                layout = policy_layout(self.readers, manifest)
                writers = [ActionWriter(*one, part, self._describe) for one, part in zip(placed, at, strict=True)]
            return Loaded(
                path,
                policy,
                layout,
                ActionLimits(contract, at, manifest.action),
                writers,
                at,
                [
                    Start(where, reader, part)
                    for (where, _), reader, part in zip(placed, self.start_readers, at, strict=True)
                    if reader is not None
                ],
                noise,
                candidates,
            )

        return self._named(fit)

    def replace(self, old: Loaded, path: str) -> Loaded:
        """As :meth:`load`, for a bundle that replaces the driving one.

        :raises ContractError: also if the names or numbers of its inputs or outputs differ from those of the driving
            one.
        """
        new = self.load(path)
        for what in ("observation", "action"):
            before, after = getattr(old.policy.manifest, what), getattr(new.policy.manifest, what)
            if before.names != after.names or before.size != after.size:
                found, expected = shown(", ".join(after.names)), shown(", ".join(before.names))
                raise ContractError(
                    f"bundle {path}: {what} has the elements {found}, expected those that drive: {expected}"
                )
        if new.policy.manifest.pictures != old.policy.manifest.pictures:
            raise ContractError(f"bundle {path}: it takes other pictures, expected those that the driving one takes")
        return new

    def _named(self, make: Callable[[], _Made]) -> _Made:
        try:
            return make()
        except ContractError as error:
            raise ContractError(f"contract {self.contract.where}: {error}") from error


def require_in_root(path: str, root: str) -> None:
    """A request over the network must not make the node read arbitrary files.

    :param root: the directory that bundles have to lie in, without links.
    :raises ContractError: the bundle is elsewhere.
    """
    if os.path.commonpath([root, os.path.realpath(path)]) != root:
        raise ContractError(f"bundle {path} is outside of {root}, expected it inside (see bundle_root)")


class ReloadBusy(RuntimeError):
    """Another bundle is being loaded."""


class PolicyHolder:
    """Holds the bundle that drives; the control loop reads ``current`` once per period."""

    def __init__(self, loaded: Loaded) -> None:
        self.current = loaded
        self.reloads = 0
        self._loading = threading.Lock()

    @contextmanager
    def reloading(self) -> Iterator[None]:
        """Allows one reload at a time.

        :raises ReloadBusy: another reload is in progress.
        """
        if not self._loading.acquire(blocking=False):
            raise ReloadBusy("another bundle is being loaded, expected one at a time")
        try:
            yield
        finally:
            self._loading.release()

    def swap(self, loaded: Loaded) -> None:
        """Drives with this bundle from the next period on; the current period ends with the old one."""
        self.current = loaded
        self.reloads += 1
