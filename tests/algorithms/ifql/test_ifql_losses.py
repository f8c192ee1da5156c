"""IFQL's losses against DIPOLE's with a very large shift, and a problem with a known answer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from fixed_networks import chain, samples, small_model, two_modes, values_of_chain

from dipole_sb3 import DIPOLE, IFQL
from dipole_sb3.learning.flow_noise import FlowNoise
from dipole_sb3.learning.update_rule import apply_update


def test_is_dipole_with_a_very_large_shift_at_omega_zero() -> None:
    # At k = 100 every positive weight is 1 in single precision.
    data = two_modes()
    arguments = {"num_candidates": 8, "flow_steps": 5}
    ifql = small_model(IFQL, data, **arguments)
    dipole = small_model(DIPOLE, data, shift=100.0, critic_target="value", q_agg="min", omega=0.0, **arguments)
    for name in ("critic", "critic_target", "value"):
        getattr(ifql.policy, name).load_state_dict(getattr(dipole.policy, name).state_dict())
    of_pair = dict(dipole.policy.actor.named_parameters())
    for name, parameter in ifql.policy.actor.named_parameters():
        parameter.data = of_pair[name].data[:1].clone()
    generator = torch.Generator().manual_seed(0)
    for update in range(1, 31):
        batch = dipole.replay_buffer.draw(64, generator)
        noise = dipole.update_rule.draw_noise(dipole.policy, 64, generator, update)
        one = apply_update(dipole.update_rule, dipole.policy, batch, noise, dipole.objective())
        other = apply_update(ifql.update_rule, ifql.policy, batch, FlowNoise(noise.start, noise.time), ifql.objective())
        # DIPOLE's negative loss is 0.
        assert one.losses[[0, 2, 3]].tolist() == pytest.approx(other.losses.tolist(), rel=1e-5)
    for name, parameter in ifql.policy.actor.named_parameters():
        torch.testing.assert_close(parameter, of_pair[name][:1], atol=1e-5, rtol=1e-4)
    observations = np.random.default_rng(0).normal(size=(20, 1)).astype(np.float32)
    for count in (1, 8):
        chosen = [model.predict(observations, deterministic=True, num_candidates=count)[0] for model in (ifql, dipole)]
        np.testing.assert_allclose(chosen[0], chosen[1], atol=1e-4)


def test_the_critics_choose_among_the_clones_samples() -> None:
    model = small_model(IFQL, two_modes(), gamma=0.0).learn(2000)
    share = float((two_modes()["actions"] > 0).mean())
    assert (samples(model, num_candidates=1) > 0).mean() == pytest.approx(share, abs=0.1)
    assert samples(model, num_candidates=32) == pytest.approx(0.5, abs=0.25)


def test_values_of_a_chain() -> None:
    model = small_model(IFQL, chain(), gamma=0.5).learn(600)
    assert values_of_chain(model) == pytest.approx((0.5, 1.0), abs=0.05)
