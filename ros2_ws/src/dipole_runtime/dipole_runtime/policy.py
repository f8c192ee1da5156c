"""The policy that drives: each decision runs its graphs once, with everything checked; it does not learn."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dipole_runtime.bundle import Bundle, read_bundle
from dipole_runtime.errors import GuidedPolicyError, refusing, shown
from dipole_runtime.manifest import MAX_CANDIDATES, Guidance
from dipole_runtime.observations import ObservationReader, all_finite
from dipole_runtime.scenes import SceneNetworks, SceneReader
from dipole_runtime.selftest import acting_network, measure_parity, recorded_observations, require_parity
from dipole_runtime.sessions import Floats, Network, Provider, time_limit
from dipole_runtime.sight import Sight, sight_of
from dipole_runtime.vectors import MAX_CANDIDATE_ACTIONS, PlanVectors

Observation = ArrayLike | Mapping[str, ArrayLike]

LOAD_TIME_LIMIT = 60.0
"""Limit in seconds for the test vectors; a policy that needs longer could not drive anyway."""
_OUTPUTS = ("action", "q")
_WARM_UPS = 3
_NOTHING_TO_TURN = "this bundle's policy is deterministic and has nothing to turn"


@dataclass(frozen=True, eq=False)
class GuidedAction:
    """One decision.

    :param action: in the robot's units, within [low, high], float32 with the manifest's action shape.
    :param q: the candidates' estimated returns, float32 of shape [N]; for a deterministic policy, that of its action,
        shape [1]; for a plan, which nobody estimates, shape [0].
    :param omega: the greediness of this decision; None for a deterministic policy.
    :param latency_s: seconds that the call took; the actions of a sweep share one value.
    """

    action: Floats
    q: Floats
    omega: float | None
    latency_s: float

    @property
    def chosen(self) -> int:
        """Index of the candidate that became the action: the first one with the largest return."""
        return int(self.q.argmax()) if len(self.q) else 0

    @property
    def value(self) -> float:
        """The estimated return of the action; NaN for a plan."""
        return float(self.q[self.chosen]) if len(self.q) else math.nan


class GuidedPolicy:
    """A loaded bundle, of a policy of any form. Safe to use from several threads at once.

    A deterministic policy gives one action for an observation. It has no greediness, no noise and no candidates.
    Methods that need one of these, or are given one, raise GuidedPolicyError.

    The pictures of cameras are arrays of uint8 of shape [height, width, channels], whatever the order of axes was in
    training; frames that are stacked follow each other in the channels, the oldest first. They become features once for
    each decision.

    A plan bundle's policy observes a Dict: the pictures under ``cameras``, uint8 of shape [cameras, height, width, 3],
    and ``history``, ``velocity``, ``acceleration`` and ``command``. Its action is the plan, of shape [poses, 3], and it
    has one candidate. A plan outside the manifest's bounds raises GuidedPolicyError: it is not clipped.

    :ivar manifest: the bundle's description of itself.
    :ivar hash: the manifest's checksum, which identifies the bundle's whole content; 64 hexadecimal digits.
    """

    def __init__(self, bundle: Bundle, threads: int, providers: Sequence[Provider] | None) -> None:
        self.manifest = bundle.manifest
        self.hash = bundle.manifest.checksum
        self._network = acting_network(bundle, threads, providers)
        plan = self.manifest.plan
        reader: SceneReader | Sight | ObservationReader
        if plan is not None:
            reader = SceneReader(self.manifest, plan)
        else:
            reader = sight_of(bundle, threads, providers) or ObservationReader(self.manifest.observation)
        self._read_observation: Any = reader.read
        self._rng = np.random.default_rng()
        self._noise_size = self.manifest.noise_size
        self._action_shape = self.manifest.action.shape
        vectors = bundle.vectors()
        self._fixed_noise = vectors.noise[0] if isinstance(vectors, PlanVectors) else None
        self._low, self._high = (
            np.array(bound, np.float32) for bound in (self.manifest.action.low, self.manifest.action.high)
        )

    @classmethod
    def load(
        cls, path: str | os.PathLike[str], threads: int = 1, providers: Sequence[Provider] | None = None
    ) -> GuidedPolicy:
        """Reads a bundle, checks it, and verifies that it reproduces the trainer's test vectors on this machine.

        :param path: a directory or a .dipole file.
        :param threads: number of threads for one decision, at least 1.
        :param providers: ONNX Runtime's execution providers in order of preference; None: the CPU.
        :raises GuidedPolicyError: the bundle is not complete, or it acts differently than in the trainer.
        """
        return cls.from_bundle(read_bundle(path), threads, providers)

    @classmethod
    def from_bundle(cls, bundle: Bundle, threads: int = 1, providers: Sequence[Provider] | None = None) -> GuidedPolicy:
        """As :meth:`load`, for a bundle in memory."""
        with refusing(bundle.where), time_limit(LOAD_TIME_LIMIT) as options:
            policy = cls(bundle, threads, providers)
            for path, measured in measure_parity(bundle, policy._network, threads, options):
                require_parity(path, measured)
            # The first runs with a new size allocate memory that later runs reuse.
            observation = next(recorded_observations(bundle))
            for _ in range(_WARM_UPS):
                # Of a plan the first test vector, because other noise may lead out of the bounds.
                policy.act(observation, noise=policy._fixed_noise)
        return policy

    def act(
        self,
        observation: Observation,
        omega: float | None = None,
        noise: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
        num_candidates: int | None = None,
    ) -> GuidedAction:
        """The best of N candidates, or a deterministic policy's only action.

        :param observation: raw: an array with the observation's shape or already flat; for a Dict observation, a
            mapping with exactly its keys; for a plan see the class.
        :param omega: greediness in the manifest's range (−1: negative policy, 0: positive policy); None: its default.
            Must be None for a deterministic policy.
        :param noise: the flow's starting points [N, act], standard normal; None: drawn. For a diffusion policy
            [N, T·act]: the start, and what each step but the last adds; for a plan [1, 4·poses]. Must be None for a
            deterministic policy.
        :param rng: draws the noise; None: the policy's own generator. A deterministic policy draws nothing.
        :param num_candidates: N, 1 to 4,096; None: the manifest's value, or the number of rows of ``noise``. Must be
            None or 1 for a deterministic policy and for a plan.
        :return: the action, with the returns of the candidates.
        :raises GuidedPolicyError: any other argument, and NaN or infinity in an input or output.
        """
        started = perf_counter()
        _require_generator(rng)
        guidance = self.manifest.guidance
        if guidance is None:
            self._require_nothing_turned(omega, noise, num_candidates)
            return self._act_deterministically(observation, started)
        value = guidance.omega.default if omega is None else _require_omega(omega, guidance)
        actions, q = self._decide(observation, np.array([value], np.float32), noise, rng, num_candidates, guidance)
        return GuidedAction(actions[0].reshape(self._action_shape), q[0], value, perf_counter() - started)

    def sweep(
        self,
        observation: Observation,
        omegas: Sequence[float] | NDArray[np.floating],
        noise: ArrayLike | None = None,
        rng: np.random.Generator | None = None,
        num_candidates: int | None = None,
    ) -> list[GuidedAction]:
        """The actions for several ω from the same noise, in one run; arguments as in :meth:`act`.

        :param omegas: W ≥ 1 values, W·N at most 65,536.
        :return: one action per ω, in the same order.
        :raises GuidedPolicyError: as :meth:`act`, and for a deterministic policy, which has no ω.
        """
        started = perf_counter()
        guidance = self.manifest.guidance
        if guidance is None:
            raise GuidedPolicyError(f"there are no omegas to sweep: {_NOTHING_TO_TURN}")
        _require_generator(rng)
        # Neither what has no order nor bytes, whose elements are whole numbers.
        if not np.iterable(omegas) or isinstance(omegas, str | bytes | bytearray | memoryview | Mapping | Set):
            raise GuidedPolicyError(f"omegas is {shown(omegas)}, expected a sequence of numbers")
        values = [_require_omega(omega, guidance) for omega in omegas]
        if not values:
            raise GuidedPolicyError("omegas is empty, expected at least one")
        actions, q = self._decide(observation, np.array(values, np.float32), noise, rng, num_candidates, guidance)
        latency = perf_counter() - started
        return [
            GuidedAction(action.reshape(self._action_shape), row, value, latency)
            for action, row, value in zip(actions, q, values, strict=True)
        ]

    def deterministic_noise(self, num_candidates: int | None = None) -> Floats:
        """The noise of dipole_sb3's ``predict(deterministic=True)``: fixed, with a first row of zeros.

        :return: as the noise of :meth:`act`, float32; for a plan that of the first test vector, which is the one that
            ``DPVLA.predict`` begins with.

        :raises GuidedPolicyError: for a deterministic policy, which uses no noise.
        """
        guidance = self.manifest.guidance
        if guidance is None:
            raise GuidedPolicyError(f"there is no noise: {_NOTHING_TO_TURN}")
        shape = (self._require_num_candidates(num_candidates, guidance), self._noise_size)
        if self._fixed_noise is not None:
            return np.array(self._fixed_noise)
        noise = np.random.default_rng(0).standard_normal(shape)
        noise[0] = 0.0
        return noise.astype(np.float32)

    def _decide(
        self,
        observation: Observation,
        omegas: Floats,
        noise: ArrayLike | None,
        rng: np.random.Generator | None,
        num_candidates: int | None,
        guidance: Guidance,
    ) -> tuple[Floats, Floats]:
        seen = self._read_observation(observation)
        if noise is None:
            start = self._draw(self._require_num_candidates(num_candidates, guidance), rng)
        else:
            start = self._require_noise(noise, num_candidates, guidance)
        if len(omegas) * len(start) > MAX_CANDIDATE_ACTIONS:
            raise GuidedPolicyError(
                f"{len(omegas)} ω × {len(start)} candidates, expected at most {MAX_CANDIDATE_ACTIONS} together"
            )
        if isinstance(self._network, SceneNetworks):
            plans = self._network.plans(seen, start, omegas)
            self._require_within(plans)
            return plans, np.empty((len(omegas), 0), np.float32)
        return self._run(self._network, {"observation": seen, "noise": start, "omega": omegas})

    def _act_deterministically(self, observation: Observation, started: float) -> GuidedAction:
        assert isinstance(self._network, Network)
        actions, q = self._run(self._network, {"observation": self._read_observation(observation)})
        return GuidedAction(actions[0].reshape(self._action_shape), q, None, perf_counter() - started)

    def _require_nothing_turned(self, omega: float | None, noise: ArrayLike | None, num_candidates: int | None) -> None:
        if omega is not None:
            raise GuidedPolicyError(f"omega is {shown(omega)}, expected none: {_NOTHING_TO_TURN}")
        if noise is not None:
            raise GuidedPolicyError(f"noise is given, expected none: {_NOTHING_TO_TURN}")
        if _require_num_candidates(num_candidates, 1) != 1:
            raise GuidedPolicyError(f"num_candidates is {num_candidates}, expected 1 or none: {_NOTHING_TO_TURN}")

    def _run(self, network: Network, inputs: Mapping[str, Floats]) -> tuple[Floats, Floats]:
        action, q = network.run(_OUTPUTS, inputs)
        if not (all_finite(action) and all_finite(q)):
            raise self._not_finite(action, q)
        return action, q

    def _draw(self, num_candidates: int, rng: np.random.Generator | None) -> Floats:
        shape = (num_candidates, self._noise_size)
        if rng is not None:
            return rng.standard_normal(shape, np.float32)
        # Safe from several threads: NumPy's generators hold their own lock while they draw.
        return self._rng.standard_normal(shape, np.float32)

    def _require_noise(self, noise: ArrayLike, num_candidates: int | None, guidance: Guidance) -> Floats:
        try:
            given = np.asarray(noise)
        except (TypeError, ValueError) as error:  # such as lists of different lengths
            raise GuidedPolicyError(f"noise is {shown(noise)}, expected an array of numbers") from error
        # Texts and booleans would be converted silently.
        if given.dtype.kind not in "fiu":
            raise GuidedPolicyError(f"noise is {shown(noise)} of type {given.dtype}, expected an array of numbers")
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(given, np.float32)
        rows = len(array) if num_candidates is None and array.ndim else num_candidates
        expected = (self._require_num_candidates(rows, guidance), self._noise_size)
        if array.shape != expected:
            raise GuidedPolicyError(f"noise has shape {array.shape}, expected {expected}")
        if not all_finite(array):
            row, column = np.argwhere(~np.isfinite(array))[0]
            where = f"element {column}"
            if self.manifest.plan is None:
                where = shown(self.manifest.action.names[column % self.manifest.action.size])
            raise GuidedPolicyError(f"noise is {array[row, column]} for {where} of candidate {row}")
        return array

    def _require_num_candidates(self, num_candidates: int | None, guidance: Guidance) -> int:
        count = _require_num_candidates(num_candidates, guidance.num_candidates)
        if self.manifest.plan is not None and count != 1:
            raise GuidedPolicyError(f"num_candidates is {count}, expected 1 or none: a plan is drawn, and not chosen")
        return count

    def _require_within(self, plans: Floats) -> None:
        # Not "outside": NaN is neither inside nor outside.
        inside = (plans >= self._low) & (plans <= self._high)
        if not inside.all():
            row, column = np.argwhere(~inside)[0]
            name = shown(self.manifest.action.names[column])
            raise GuidedPolicyError(
                f"the plan is {plans[row, column]:g} for {name}, expected {self._low[column]:g} to "
                f"{self._high[column]:g}, the bundle's bounds"
            )

    def _not_finite(self, action: Floats, q: Floats) -> GuidedPolicyError:
        if not np.isfinite(action).all():
            row, column = np.argwhere(~np.isfinite(action))[0]
            name = self.manifest.action.names[column]
            return GuidedPolicyError(f"the policy's action is {action[row, column]} for {shown(name)}, expected finite")
        *_, candidate = np.argwhere(~np.isfinite(q))[0]
        value = q[~np.isfinite(q)][0]
        return GuidedPolicyError(f"the policy's q is {value} for candidate {candidate}, expected finite")


def _require_omega(omega: float, guidance: Guidance) -> float:
    low, high = guidance.omega.low, guidance.omega.high
    value = omega if type(omega) is float else _number(omega)
    if not low <= value <= high:
        raise GuidedPolicyError(f"omega is {value}, expected {low} to {high}, the bundle's range")
    return value


def _number(omega: Any) -> float:
    """A number of any type; Python's float() would also take booleans, texts and arrays of one element."""
    try:
        array = np.asarray(omega)
        if array.ndim or array.dtype.kind not in "fiuO" or isinstance(array.item(), bool | str | bytes):
            raise TypeError
        return float(omega)
    except (TypeError, ValueError, OverflowError) as error:
        raise GuidedPolicyError(f"omega is {shown(omega)}, expected a number") from error


def _require_generator(rng: Any) -> None:
    if rng is not None and not isinstance(rng, np.random.Generator):
        raise GuidedPolicyError(f"rng is {shown(type(rng).__name__)}, expected a numpy.random.Generator")


def _require_num_candidates(num_candidates: int | None, default: int) -> int:
    if num_candidates is None:
        return default
    if isinstance(num_candidates, bool) or not isinstance(num_candidates, int | np.integer):
        raise GuidedPolicyError(f"num_candidates is {shown(num_candidates)}, expected a whole number")
    if not 1 <= num_candidates <= MAX_CANDIDATES:
        raise GuidedPolicyError(f"num_candidates is {num_candidates}, expected 1 to {MAX_CANDIDATES}")
    return int(num_candidates)
