"""Two adapters in one pass: the same gradients as in two runs; fresh, the decoder as it was."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from dipole_sb3.driving.model.adapters import ADAPTERS, adapted, parameters_of, train_only
from dipole_sb3.driving.model.configuration import tiny
from dipole_sb3.driving.model.planner import Planner
from dipole_sb3.driving.training.losses import WeightedRegression


@pytest.fixture
def planner() -> Planner:
    """A decoder whose weights all matter, with fresh adapters."""
    torch.manual_seed(0)
    made = Planner(tiny())
    for parameter in parameters_of(made.decoder, ()).values():
        torch.nn.init.normal_(parameter, std=0.1)
    return made.double()


def perturb(planner: Planner) -> None:
    for parameter in parameters_of(planner.decoder, ADAPTERS).values():
        torch.nn.init.normal_(parameter, std=0.1)


def batch(scenes: int = 3, group: int = 4) -> dict[str, Tensor]:
    torch.manual_seed(1)
    plans, noise = torch.randn(2, scenes, group, 8, 4, dtype=torch.float64)
    return {
        "tokens": torch.randn(scenes, tiny().tokens, 64).double(),
        "history": torch.randn(scenes, 4, 3).double(),
        "plans": plans,
        "noise": noise,
        "time": torch.rand(scenes, group).double(),
    }


def gradients(planner: Planner, adapters: Sequence[str], weights: Tensor) -> dict[str, Tensor]:
    train_only(planner.decoder, adapters)
    planner.zero_grad(set_to_none=True)
    loss, _ = WeightedRegression(planner, adapters)(**batch(), weights=weights)
    loss.backward()
    return {name: each.grad for name, each in planner.named_parameters() if each.grad is not None}


def test_gradients_of_one_pass_are_those_of_two_runs(planner: Planner) -> None:
    perturb(planner)
    weights = torch.rand(2, 3, 4).double()
    both = gradients(planner, ADAPTERS, weights)
    apart = {
        name: gradient
        for index, adapter in enumerate(ADAPTERS)
        for name, gradient in gradients(planner, (adapter,), weights[index : index + 1]).items()
    }
    assert both.keys() == apart.keys() == {f"decoder.{name}" for name in parameters_of(planner.decoder, ADAPTERS)}
    for name, gradient in both.items():
        assert gradient.abs().max() > 0, name
        torch.testing.assert_close(gradient, apart[name])


def test_adapters_are_on_all_linear_maps_of_attention_and_mlps(planner: Planner) -> None:
    adapted = {name.partition(".lora_A")[0] for name in parameters_of(planner.decoder, ADAPTERS) if ".lora_A" in name}
    linears = {
        name
        for name, part in planner.decoder.named_modules()
        if isinstance(part, torch.nn.Linear) and ".lora_" not in name and name.startswith("blocks.")
    }
    assert adapted == {name.removesuffix(".base_layer") for name in linears if not name.endswith("modulation")}


@pytest.mark.parametrize("omega", [-1.0, 0.0, 1.0, 7.5])
def test_fresh_adapters_change_nothing_at_any_omega(planner: Planner, omega: float) -> None:
    data = batch()
    arguments = data["tokens"], data["history"], data["noise"], omega
    with torch.no_grad():
        base, guided = planner.sample(*arguments, (), 5), planner.sample(*arguments, ADAPTERS, 5)
    torch.testing.assert_close(guided, base)


def test_guidance_goes_from_the_negative_policy_through_the_positive_one(planner: Planner) -> None:
    perturb(planner)
    data = batch()

    def plans(omega: float, *adapters: str) -> Tensor:
        with torch.no_grad():
            return planner.sample(data["tokens"], data["history"], data["noise"], omega, adapters, 5)

    torch.testing.assert_close(plans(-1.0, *ADAPTERS), plans(0.0, "negative"))
    torch.testing.assert_close(plans(0.0, *ADAPTERS), plans(0.0, "positive"))
    assert (plans(0.0, "positive") - plans(0.0, "negative")).abs().max() > 1e-2


def test_peft_computes_the_same(planner: Planner) -> None:
    """Our sum of products and peft's own forward of its layers."""
    perturb(planner)
    layer = planner.decoder.blocks[0].first_mlp.up
    x = torch.randn(2, 5, 64).double()
    both = adapted(layer, x, ADAPTERS)
    for index, name in enumerate(ADAPTERS):
        layer.set_adapter(name)
        torch.testing.assert_close(both[index], layer(x[index]))


def test_only_what_is_chosen_trains(planner: Planner) -> None:
    for adapters in (("positive",), ("negative",), ADAPTERS, ()):
        train_only(planner.decoder, adapters)
        training = {name for name, each in planner.decoder.named_parameters() if each.requires_grad}
        assert training == parameters_of(planner.decoder, adapters).keys()


def test_injection_leaves_nothing_to_train() -> None:
    assert not any(each.requires_grad for each in Planner(tiny()).decoder.parameters())
