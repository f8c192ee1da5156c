"""Guidance: its identities through the policy, pairs with closed-form flows, and a pair trained on a known problem."""

import copy
import math
import sys
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from closed_forms import convergence_order, gaussian_velocity, integrate_rk4, mixture_velocity, randomize
from gymnasium import spaces
from torch import Tensor

from dipole_sb3.algorithms.dipole.policies import DIPOLEPolicy
from dipole_sb3.networks.flow import guided, integrate_euler, sample_actions, uniform_schedule
from dipole_sb3.networks.velocities import VelocityPair

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))

import guidance_toy as toy

OMEGAS = (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0, 4.0)
STEPS = (8, 16, 32, 64, 128, 256)
LOW, HIGH = np.array([-2.0, 0.0], np.float32), np.array([4.0, 1.0], np.float32)
ROWS = 6


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> object:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def policy() -> DIPOLEPolicy:
    policy = DIPOLEPolicy(
        spaces.Box(-np.inf, np.inf, (3,), np.float32),
        spaces.Box(LOW, HIGH),
        lambda progress: 1e-3,
        net_arch=[16, 16],
        flow_steps=5,
    )
    generator = torch.Generator().manual_seed(0)
    randomize(policy.actor, generator, scale=0.35)  # many actions stay inside the limits
    for network in (policy.critic, policy.critic_target, policy.value):
        randomize(network, generator)
    return policy


class TestIdentitiesOfThePolicy:
    observations = np.random.default_rng(0).standard_normal((ROWS, 3)).astype(np.float32)
    noise = torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(1))

    def alone(self, policy: DIPOLEPolicy, member: int, noise: Tensor) -> Tensor:
        """Actions of one field by itself, with no guidance anywhere."""
        features, pair = torch.from_numpy(self.observations), policy.actor.head
        field = (pair.positive_field, pair.negative_field)[member](features)
        with torch.no_grad():
            return sample_actions(field, noise, policy.flow_steps)

    def stacked(self, policy: DIPOLEPolicy, member: int, noise: Tensor) -> Tensor:
        """The same, the field read from the pass that evaluates both: its rounding may differ in the last bit."""
        pair = policy.actor.head.fields(torch.from_numpy(self.observations))
        with torch.no_grad():
            return sample_actions(lambda x, time: pair(x, time)[member], noise, policy.flow_steps)

    @pytest.mark.parametrize(("omega", "member"), [(0.0, 0), (-1.0, 1)])
    def test_sample_actions_to_the_bit(self, policy: DIPOLEPolicy, omega: float, member: int) -> None:
        features = torch.from_numpy(self.observations)
        with torch.no_grad():
            number = policy.sample_actions(features, self.noise, omega)
            array = policy.sample_actions(features, self.noise, torch.full((ROWS, 1), omega))
        assert torch.equal(number, self.alone(policy, member, self.noise))
        assert torch.equal(array, self.stacked(policy, member, self.noise))
        torch.testing.assert_close(number, array, rtol=0, atol=1e-6)
        assert not torch.allclose(number, self.alone(policy, 1 - member, self.noise), atol=0.01)
        assert (number.abs() < 1).float().mean() > 0.3

    @pytest.mark.parametrize(("omega", "member"), [(0.0, 0), (-1.0, 1)])
    def test_the_other_field_is_not_even_evaluated(self, policy: DIPOLEPolicy, omega: float, member: int) -> None:
        features, broken = torch.from_numpy(self.observations), copy.deepcopy(policy)
        with torch.no_grad():
            for parameter in broken.actor.head.mlp.parameters():
                parameter[1 - member] = math.nan
            actions = broken.sample_actions(features, self.noise, omega)
        assert torch.equal(actions, self.alone(policy, member, self.noise))

    @pytest.mark.parametrize("as_array", [False, True])
    @pytest.mark.parametrize(("omega", "member"), [(0.0, 0), (-1.0, 1)])
    def test_predict_to_the_bit(self, policy: DIPOLEPolicy, omega: float, member: int, as_array: bool) -> None:
        torch.manual_seed(3)
        argument = np.full(ROWS, omega, np.float32) if as_array else omega
        actions, _ = policy.predict(self.observations, omega=argument, num_candidates=1)
        torch.manual_seed(3)
        noise = torch.randn(ROWS, 2)
        scaled = (self.stacked if as_array else self.alone)(policy, member, noise).numpy()
        assert np.array_equal(actions, LOW + 0.5 * (scaled + 1.0) * (HIGH - LOW))

    def test_predict_with_one_omega_per_observation(self, policy: DIPOLEPolicy) -> None:
        omegas = np.array([-1.0, -0.5, 0.0, 0.5, 2.0, 4.0])
        together, _ = policy.predict(self.observations, deterministic=True, omega=omegas, num_candidates=3)
        for row, omega in enumerate(omegas):
            alone, _ = policy.predict(self.observations[row], deterministic=True, omega=float(omega), num_candidates=3)
            np.testing.assert_allclose(together[row], alone, atol=1e-5)
        unguided, _ = policy.predict(self.observations, deterministic=True, omega=0.0, num_candidates=3)
        assert not np.allclose(together[-1], unguided[-1], atol=0.01)

    def test_the_best_candidate_by_the_lower_online_critic(self, policy: DIPOLEPolicy) -> None:
        count = 32
        torch.manual_seed(4)
        chosen, _ = policy.predict(self.observations, omega=0.5, num_candidates=count)
        torch.manual_seed(4)
        noise = torch.randn(ROWS * count, 2).reshape(ROWS, count, 2)
        observations, by_mean = torch.from_numpy(self.observations), []
        for row in range(ROWS):
            features = observations[row].expand(count, -1)
            with torch.no_grad():
                candidates = policy.sample_actions(features, noise[row], 0.5)
                first, second = policy.critic.head(features, candidates).numpy()
            best = np.minimum(first, second).argmax()
            np.testing.assert_allclose(
                chosen[row], LOW + 0.5 * (candidates[best].numpy() + 1.0) * (HIGH - LOW), atol=1e-5
            )
            by_mean.append((first + second).argmax() == best)
        assert not all(by_mean), "the case does not tell the lower critic from the mean of both"


def standardized_noise(count: int, dimension: int) -> Tensor:
    """Normal samples moved and mixed to mean zero and covariance one exactly: no sampling error is left to tolerate."""
    noise = torch.randn(count, dimension, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = noise - noise.mean(0)
    return noise @ torch.linalg.inv(torch.linalg.cholesky(noise.T @ noise / count)).T


class TestGaussians:
    """π± = N(m±, s²I): the guided flow ends in N((1 + ω)m⁺ − ωm⁻, s²I), and carries x₀ to its mean + s·x₀."""

    positive, negative, std = torch.tensor([0.4, -0.1]).double(), torch.tensor([-0.2, 0.3]).double(), 0.3
    noise = standardized_noise(500, 2)

    def end(self, omega: float, steps: int) -> Tensor:
        field = guided(gaussian_velocity(self.positive, self.std), gaussian_velocity(self.negative, self.std), omega)
        return integrate_euler(field, self.noise, uniform_schedule(steps))

    @pytest.mark.parametrize("omega", OMEGAS)
    def test_mean_and_covariance(self, omega: float) -> None:
        ends = self.end(omega, 2000)
        mean = (1 + omega) * self.positive - omega * self.negative
        torch.testing.assert_close(ends.mean(0), mean, rtol=0, atol=1e-3)
        torch.testing.assert_close(torch.cov(ends.T, correction=0), 0.09 * torch.eye(2).double(), rtol=0, atol=1e-3)
        torch.testing.assert_close(ends, mean + self.std * self.noise, rtol=0, atol=5e-3)

    @pytest.mark.parametrize("omega", [0.0, 2.0])
    def test_order_one(self, omega: float) -> None:
        exact = (1 + omega) * self.positive - omega * self.negative + self.std * self.noise
        errors = {steps: (self.end(omega, steps) - exact).norm(dim=1).mean().item() for steps in STEPS}
        assert 0.9 < convergence_order(errors) < 1.1
        assert errors[8] < 0.12

    def test_unequal_spreads_are_not_exact(self) -> None:
        # π⁺ = N(0, 0.3²), π⁻ = N(0, 0.5²), ω = 1: the ratio (π⁺)²/π⁻ has precision 2/0.09 − 1/0.25, spread 0.2343.
        # Both fields are c(t)·x with c = (ts² − (1 − t))/q = d/dt ½ ln q, so the guided flow ends in √q⁺(1)²/√q⁻(1)
        # = 0.3²/0.5 = 0.18 times the noise: narrower. This is the bias of guidance in its simplest form.
        zero = torch.zeros(2).double()
        field = guided(gaussian_velocity(zero, 0.3), gaussian_velocity(zero, 0.5), 1.0)
        ends = integrate_euler(field, self.noise, uniform_schedule(2000))
        torch.testing.assert_close(ends, 0.18 * self.noise, rtol=0, atol=2e-3)
        assert abs(ends.std().item() - 0.2343) > 0.05


class TestMixtures:
    """Gaussian mixtures in two dimensions; reference: the guided ODE of their exact fields, integrated finely."""

    positive = staticmethod(mixture_velocity(torch.tensor([[0.5, 0.4], [-0.3, 0.5]]).double(), [0.2, 0.25], [0.7, 0.3]))
    negative = staticmethod(
        mixture_velocity(
            torch.tensor([[-0.4, -0.3], [0.3, -0.4], [0.0, 0.3]]).double(), [0.25, 0.3, 0.3], [0.4, 0.4, 0.2]
        )
    )
    noise = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def test_field_carries_the_noise_to_its_mixture(self) -> None:
        # In one dimension the flow keeps the order: F(x₁(x₀)) = Φ(x₀) for the mixture's distribution function F.
        means, stds, weights = [-0.5, 0.4], [0.15, 0.25], [0.3, 0.7]
        start = torch.linspace(-3, 3, 61, dtype=torch.float64).unsqueeze(1)
        field = mixture_velocity(torch.tensor(means, dtype=torch.float64).unsqueeze(1), stds, weights)
        ends = integrate_rk4(field, start, 1000)
        found = sum(w * torch.special.ndtr((ends - m) / s) for m, s, w in zip(means, stds, weights, strict=True))
        torch.testing.assert_close(found, torch.special.ndtr(start), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("omega", [-1.0, 0.0, 0.5, 2.0])
    def test_sampler_approaches_the_guided_ode(self, omega: float) -> None:
        field = guided(self.positive, self.negative, omega)

        def by_hand(x: Tensor, time: Tensor) -> Tensor:
            return self.positive(x, time) + omega * (self.positive(x, time) - self.negative(x, time))

        reference = integrate_rk4(by_hand, self.noise, 100)
        errors = {
            steps: (integrate_euler(field, self.noise, uniform_schedule(steps)) - reference).norm(dim=1).mean().item()
            for steps in (10, *STEPS)
        }
        assert errors.pop(10) < 0.1
        assert 0.9 < convergence_order(errors) < 1.1
        assert errors[256] < 0.005


COUNT = 200
"""Quantiles at which the toy's distributions are compared."""

in_both_states = pytest.mark.parametrize("state", toy.STATES, ids=lambda state: state.name)


@pytest.fixture(scope="module")
def trained() -> VelocityPair:
    return toy.train_pair(seed=0)


class TestTrainedPair:
    """A pair trained with the package's losses on data of a known μ and G, against numerical integration.

    Distances are Wasserstein-1; the data's standard deviation is 0.37, the distance from π⁻ to π⁺ 0.37 in ``ramp`` and
    0.53 in ``peak``. Over three seeds: with 128 flow steps at most 0.017 for ω ≤ 0.5 and 0.038 for ω = 2 (guidance
    multiplies what the fields got wrong), with 10 flow steps 0.044 and 0.056. The bounds leave room for other seeds.
    """

    bounds = MappingProxyType(
        {
            (128, -1.0): 0.03,
            (128, 0.0): 0.03,
            (128, 0.5): 0.03,
            (128, 2.0): 0.07,
            (10, -1.0): 0.06,
            (10, 0.0): 0.06,
            (10, 0.5): 0.06,
            (10, 2.0): 0.09,
        }
    )

    def test_grid_field_is_the_mixture_field(self) -> None:
        # Validates the reference: the sum over the grid against the closed form of μ's own field.
        field = toy.exact_velocities(toy.data_mass(), toy.positive_mass(toy.PEAK))
        closed = mixture_velocity(torch.tensor(toy.MEANS, dtype=torch.float64).unsqueeze(1), toy.STDS, toy.SHARES)
        x = torch.linspace(-1.5, 1.5, 31, dtype=torch.float64)
        for time in torch.tensor([0.0, 0.2, 0.5, 0.9, 0.99], dtype=torch.float64):
            torch.testing.assert_close(field(x, time)[0], closed(x.unsqueeze(1), time).squeeze(1), rtol=1e-6, atol=1e-6)

    @in_both_states
    @pytest.mark.parametrize("flow_steps", [128, 10])
    @pytest.mark.parametrize("omega", [0.0, -1.0])
    def test_ends_of_the_knob(self, trained: VelocityPair, state: toy.State, omega: float, flow_steps: int) -> None:
        own, opposite = toy.positive_mass(state), toy.negative_mass(state)
        if omega == -1.0:
            own, opposite = opposite, own
        samples = toy.sampled_quantiles(trained, state, omega, COUNT, flow_steps)
        assert toy.wasserstein(samples, toy.quantiles(own, COUNT)) < self.bounds[flow_steps, omega]
        assert toy.wasserstein(samples, toy.quantiles(opposite, COUNT)) > 0.3

    @in_both_states
    @pytest.mark.parametrize("omega", [0.5, 2.0])
    def test_guided_ode_and_only_with_the_right_sign(
        self, trained: VelocityPair, state: toy.State, omega: float
    ) -> None:
        reference = toy.guided_quantiles(state, omega, COUNT).clamp(-1, 1)
        for flow_steps in (128, 10):
            bound = self.bounds[flow_steps, omega]
            samples = toy.sampled_quantiles(trained, state, omega, COUNT, flow_steps)
            assert toy.wasserstein(samples, reference) < bound
            broken = toy.sampled_quantiles(trained, state, -omega, COUNT, flow_steps)
            assert toy.wasserstein(broken, reference) > 4 * bound

    @in_both_states
    def test_guided_samples_are_not_the_reweighted_policy(self, trained: VelocityPair, state: toy.State) -> None:
        # At ω = 2 the distance to π* ∝ μ·σ(βG)·exp(ωβG) is the bias of guidance, not an error of learning.
        optimal = toy.quantiles(toy.optimal_mass(state, 2.0), COUNT)
        assert toy.wasserstein(toy.guided_quantiles(state, 2.0, COUNT), optimal) > 0.08
        assert toy.wasserstein(toy.sampled_quantiles(trained, state, 2.0, COUNT, 128), optimal) > 0.08

    @in_both_states
    def test_optimal_policy_is_the_guided_ratio(self, state: toy.State) -> None:
        # (π⁺)^(1+ω)/(π⁻)^ω ∝ μ·σ(βG)·exp(ωβG): why the pair is guided this way at all.
        inside = toy.data_mass() > 1e-12
        positive, negative = toy.positive_mass(state)[inside].log(), toy.negative_mass(state)[inside].log()
        ratio = 3.0 * positive - 2.0 * negative
        optimal = toy.optimal_mass(state, 2.0)[inside].log()
        torch.testing.assert_close(ratio - ratio.mean(), optimal - optimal.mean(), rtol=0, atol=1e-8)

    def test_more_omega_is_greedier(self, trained: VelocityPair) -> None:
        means = [
            toy.sampled_quantiles(trained, toy.RAMP, omega, COUNT, 10).mean().item()
            for omega in (-1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
        ]
        assert min(np.diff(means)) > 0.03
        assert not math.isnan(means[-1])
