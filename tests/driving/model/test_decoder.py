"""The decoder: its size in the paper, what depends on what, and the memory that is computed once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from dipole_sb3.driving.model.adapters import ADAPTERS, inject, parameters_of
from dipole_sb3.driving.model.configuration import Configuration, configuration_of, paper, tiny
from dipole_sb3.driving.model.decoder import Decoder
from dipole_sb3.driving.model.diffusion import alpha_and_sigma
from dipole_sb3.driving.model.planner import Planner


@pytest.fixture
def decoder() -> Decoder:
    """With weights that all matter: fresh ones answer zero."""
    torch.manual_seed(0)
    made = Decoder(tiny()).double()
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return made


def inputs(scenes: int, plans: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noised plans, times, histories, tokens."""
    torch.manual_seed(1)
    x = torch.randn(1, scenes, plans, 8, 4, dtype=torch.float64)
    time, history = torch.rand(scenes, plans).double(), torch.randn(scenes, 4, 3).double()
    return x, time, history, torch.randn(scenes, 11, 64).double()


def test_sizes_in_the_paper() -> None:
    configuration = paper()
    with torch.device("meta"):
        decoder = Decoder(configuration)
        inject(decoder, configuration.rank, configuration.alpha)

    def millions(*adapters: str) -> float:
        return round(sum(each.numel() for each in parameters_of(decoder, adapters).values()) / 1e6, 2)

    assert round(millions(), 1) == 462.1
    assert [millions(name) for name in ADAPTERS] == [6.68, 6.68]
    assert millions(*ADAPTERS) == 13.37
    assert (configuration.image_tokens, configuration.tokens) == (145, 475)


def test_the_whole_agent_in_the_paper() -> None:
    with torch.device("meta"):
        planner = Planner(paper())
    # "A 1-billion parameter model".
    assert sum(each.numel() for each in planner.parameters()) == pytest.approx(1.05e9, rel=0.01)


def test_plans_and_scenes_do_not_see_each_other(decoder: Decoder) -> None:
    x, time, history, tokens = inputs(3, 5)
    whole = decoder(x, time, history, decoder.remember(tokens, ()), ())
    one = slice(1, 2)
    memory = decoder.remember(tokens[one], ())
    alone = decoder(x[:, one, 3:4], time[one, 3:4], history[one], memory, ())
    torch.testing.assert_close(alone, whole[:, one, 3:4])


@pytest.mark.parametrize("which", ["x", "time", "history", "tokens"])
def test_everything_matters(decoder: Decoder, which: str) -> None:
    x, time, history, tokens = inputs(2, 2)
    before = decoder(x, time, history, decoder.remember(tokens, ()), ())
    changed = {"x": x, "time": time, "history": history, "tokens": tokens}
    changed[which] = changed[which] * 1.5
    memory = decoder.remember(changed["tokens"], ())
    after = decoder(changed["x"], changed["time"], changed["history"], memory, ())
    assert (after - before).abs().amax(dim=(0, 2, 3, 4)).min() > 1e-3


def test_waypoints_have_an_order(decoder: Decoder) -> None:
    x, time, history, tokens = inputs(1, 1)
    memory = decoder.remember(tokens, ())
    there, back = decoder(x, time, history, memory, ()), decoder(x.flip(-2), time, history, memory, ())
    assert (there - back.flip(-2)).abs().max() > 1e-3


def test_one_time_for_all(decoder: Decoder) -> None:
    x, _, history, tokens = inputs(3, 5)
    memory, time = decoder.remember(tokens, ()), torch.full((1, 1), 0.3).double()
    torch.testing.assert_close(
        decoder(x, time, history, memory, ()), decoder(x, time.expand(3, 5), history, memory, ())
    )


def test_a_fresh_decoder_takes_for_noise_what_would_be_noise_without_data() -> None:
    decoder = Decoder(tiny())
    x, time, history, tokens = (each.float() for each in inputs(2, 2))
    answers = decoder(x, time, history, decoder.remember(tokens, ()), ())
    torch.testing.assert_close(answers, alpha_and_sigma(time)[1][..., None, None] * x)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"heads": 5}, "width is 64, expected a multiple of heads = 5"), ({"frequencies": 7}, "frequencies is 7")],
)
def test_sizes_that_do_not_fit(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Configuration(**{**tiny().as_dict(), **change})


def test_an_unknown_configuration() -> None:
    with pytest.raises(ValueError, match="configuration is 'huge', expected 'tiny' or 'paper'"):
        configuration_of("huge")
    assert Configuration(**paper().as_dict()) == paper()
