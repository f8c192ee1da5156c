"""The page of a bundle in a real browser: its numbers are the runtime's, whatever is turned."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from dipole_runtime import Bundle, GuidedPolicy
from dipole_runtime.manifest import OmegaRange
from dipole_runtime.observations import observation_of
from dipole_runtime.page import write_page
from headless_browser import Browser, Tab
from page_helpers import Files, Open, click, numbers, policy_of, settled, shown_action, text, texts
from small_bundles import (
    SmallPolicy,
    make_action_vectors,
    make_files,
    make_vectors,
    observation_and_noise,
    rehashed,
)

KNOB = {"name": "guidance", "title": "guidance weight w", "meaning": "0: all data", "more_than_omega": 1.0}
COMPARED = [-1, 0, 0.5, 1, 2, 4]


@pytest.fixture(scope="module")
def one_page(browser: Browser, files: Files, tmp_path_factory: pytest.TempPathFactory) -> Tab:
    return browser.open(write_page(Bundle.from_files(files, "b"), tmp_path_factory.mktemp("page")))


@pytest.fixture
def tab(one_page: Tab) -> Tab:
    """The page of ``files`` as it is at first, whatever another test has turned: opening one takes seconds."""
    one_page.type("#knob + input", "0.5")
    one_page.type("#candidates + input", "3")
    one_page.type("#compared", ", ".join(map(str, COMPARED)))
    click(one_page, "#fixed-noise")
    click(one_page, "#vectors button")
    settled(one_page)
    return one_page


@pytest.fixture(scope="module")
def beside(files: Files) -> GuidedPolicy:
    """The runtime with the same bundle."""
    return policy_of(files)


@pytest.fixture
def first(small: SmallPolicy) -> Any:
    """The first test vector's observation, which the page shows first."""
    return make_vectors(small).observations[0].copy()


def computed(tab: Tab, observation: Any, noise: Any = None, omegas: Any = None) -> tuple[Any, Any]:
    """(action, q) of the page's policy, flat."""
    given = [np.ravel(one).tolist() for one in (observation, noise, omegas) if one is not None]
    arrays = ", ".join(f"Float32Array.of({', '.join(map(repr, one))})" for one in given)
    action, q = tab.run(f"dipole.policy.run({arrays}).then(({{action, q}}) => [[...action], [...q]])")
    return np.array(action), np.array(q)


def require(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-5)


class TestNumbers:
    @pytest.mark.parametrize("count", [1, 3, 7])
    def test_they_are_the_runtimes(self, tab: Tab, beside: GuidedPolicy, small: SmallPolicy, count: int) -> None:
        omegas = [-1.0, 0.0, 0.37, 1.0, 4.0]
        for seed in range(5):
            observation, noise = observation_and_noise(small, seed, count)
            action, q = computed(tab, observation, noise, omegas)
            expected = beside.sweep(observation, omegas, noise=noise)
            require(action.reshape(5, -1), [one.action for one in expected])
            require(q.reshape(5, -1), [one.q for one in expected])

    def test_dict_observations(self, opened: Open, small_dict: SmallPolicy, dict_policy: GuidedPolicy) -> None:
        tab = opened(make_files(small_dict))
        flat, noise = observation_and_noise(small_dict, 3)
        expected = dict_policy.act(observation_of(dict_policy.manifest.observation, flat), 2.0, noise)
        action, q = computed(tab, flat, noise, [2.0])
        require(action, expected.action)
        require(q, expected.q)
        assert texts(tab, "#observation-sliders summary bdi") == ["goal", "arm", "buttons"]
        labels = texts(tab, "#observation-sliders .slider label")
        assert labels == list(dict_policy.manifest.observation.names)
        settled(tab)
        for index, value in enumerate(flat):
            tab.type(f"#observation-{index} + input", repr(float(value)))
        parts = observation_of(dict_policy.manifest.observation, flat)
        require(shown_action(tab), dict_policy.act(parts, noise=dict_policy.deterministic_noise()).action)

    def test_a_deterministic_policy(self, opened: Open, deterministic_files: Files, small: SmallPolicy) -> None:
        tab, policy = opened(deterministic_files), policy_of(deterministic_files)
        for seed in range(5):
            observation, _ = observation_and_noise(small, seed)
            expected = policy.act(observation)
            action, q = computed(tab, observation)
            require(action, expected.action)
            require(q, expected.q)
        require(shown_action(tab), policy.act(make_action_vectors(small).observations[0]).action)
        tab.type("#observation-1 + input", "0.5")
        changed = make_action_vectors(small).observations[0].copy()
        changed[1] = 0.5
        require(shown_action(tab), policy.act(changed).action)
        seen = str(tab.run("document.body.innerText"))
        assert "deterministic" in seen
        assert not re.search("ω|noise|andidate|undefined|NaN", seen), seen

    def test_a_diffusion_policy(self, opened: Open, diffusion_files: Files, small: SmallPolicy) -> None:
        tab, policy = opened(diffusion_files), policy_of(diffusion_files)
        random, observation = np.random.default_rng(0), make_vectors(small, form="diffusion").observations[0]
        for count in (1, 3, 7):
            noise = random.normal(size=(count, policy.manifest.noise_size)).astype(np.float32)
            expected = policy.act(observation, noise=noise)
            action, q = computed(tab, observation, noise, [0.0])
            require(action, expected.action)
            require(q, expected.q)
        for count in (3, 5):
            tab.type("#candidates + input", str(count))
            require(shown_action(tab), policy.act(observation, noise=policy.deterministic_noise(count)).action)
        click(tab, "#new-noise")
        settled(tab)
        assert tab.run("dipole.noise().length") == 5 * policy.manifest.noise_size
        seen = str(tab.run("document.body.innerText"))
        assert "from noise to an action in 3 steps" in seen
        assert not re.search("ω|undefined|NaN", seen), seen

    def test_it_says_how_far_it_is_from_the_trainer(self, opened: Open, paged_files: Files) -> None:
        tab = opened(paged_files)
        assert re.match("Agrees with the trainer to .* on 3 test vectors, in this browser", text(tab, "#status"))
        for name in ("action", "q"):
            (difference,) = numbers(tab, "#status", f"dataset.{name}")
            assert 0 < difference < 1e-5


class TestControls:
    def test_what_is_shown_at_first(self, opened: Open, files: Files, beside: GuidedPolicy, first: Any) -> None:
        """The first test vector, the default ω and N, and the noise of predict(deterministic=True)."""
        tab = opened(files)
        expected = beside.act(first, noise=beside.deterministic_noise())
        require(shown_action(tab), expected.action)
        require(numbers(tab, "#q strong", "dataset.value"), [expected.q.max()])
        for part in ("v = (1 + ω)·v⁺ − ω·v⁻: −1 is the negative policy, 0 the positive", "nothing is sent anywhere"):
            assert part in text(tab, "header")
        assert "undefined" not in str(tab.run("document.body.innerText"))

    def test_each_element_of_the_observation(self, tab: Tab, beside: GuidedPolicy, first: Any) -> None:
        assert texts(tab, "#observation-sliders label") == list(beside.manifest.observation.names)
        for index, value in enumerate((0.25, -1.5, 0.75)):
            before = shown_action(tab)
            tab.type(f"#observation-{index} + input", str(value))
            first[index] = value
            expected = beside.act(first, noise=beside.deterministic_noise()).action
            require(shown_action(tab), expected)
            assert not np.allclose(before, expected, atol=1e-4), "the element changes nothing: the test shows nothing"

    def test_the_slider_itself(self, tab: Tab, beside: GuidedPolicy, first: Any) -> None:
        tab.press("#observation-0", "End")
        (first[0],) = numbers(tab, "#observation-0", "max")
        require(shown_action(tab), beside.act(first, noise=beside.deterministic_noise()).action)
        np.testing.assert_allclose(numbers(tab, "#observation-0 + input", "value"), first[0], rtol=1e-3)

    def test_what_is_no_number(self, tab: Tab) -> None:
        before = shown_action(tab)
        tab.type("#observation-0 + input", "1e39")
        np.testing.assert_array_equal(shown_action(tab), before)
        assert "expected a number" in tab.run("document.querySelector('#observation-0 + input').validationMessage")

    def test_observations_of_the_test_vectors(self, tab: Tab, beside: GuidedPolicy, small: SmallPolicy) -> None:
        for index, observation in [*enumerate(make_vectors(small).observations)][::-1]:
            click(tab, "#vectors button", index)
            require(shown_action(tab), beside.act(observation, noise=beside.deterministic_noise()).action)
            fields = numbers(tab, "#observation-sliders [type=number]", "value")
            np.testing.assert_allclose(fields, observation, rtol=1e-3)

    @pytest.mark.parametrize(("key", "omega"), [("Home", -1.0), ("End", 4.0)])
    def test_omega(self, tab: Tab, beside: GuidedPolicy, first: Any, key: str, omega: float) -> None:
        before = shown_action(tab)
        tab.press("#knob", key)
        expected = beside.act(first, omega, beside.deterministic_noise()).action
        require(shown_action(tab), expected)
        assert not np.allclose(before, expected, atol=1e-4)
        assert text(tab, "#action-title") == f"Action at ω = {omega:g}".replace("-", "−")

    def test_omega_out_of_range_is_refused(self, tab: Tab) -> None:
        """As the runtime does, never clipped silently."""
        before = shown_action(tab)
        tab.type("#knob + input", "7")
        np.testing.assert_array_equal(shown_action(tab), before)
        assert "from −1 to 4" in tab.run("document.querySelector('#knob + input').validationMessage")
        assert tab.run("dipole.state.omega") == 0.5
        tab.type("#knob + input", "2.25")
        assert tab.run("[dipole.state.omega, document.querySelector('#knob + input').validity.valid]") == [2.25, True]

    @pytest.mark.parametrize("count", [1, 32])
    def test_candidates(self, tab: Tab, beside: GuidedPolicy, first: Any, count: int) -> None:
        tab.type("#candidates + input", str(count))
        require(shown_action(tab), beside.act(first, noise=beside.deterministic_noise(count)).action)
        assert len(texts(tab, "#dots circle")) == (count if count > 1 else 0)
        tab.type("#candidates + input", "33")
        assert tab.run("dipole.state.candidates") == count

    def test_noise(self, tab: Tab) -> None:
        """New noise is standard normal and stays; the fixed one comes back."""
        fixed = shown_action(tab)
        click(tab, "#new-noise")
        new = shown_action(tab)
        assert not np.allclose(fixed, new, atol=1e-3)
        click(tab, "#vectors button")
        np.testing.assert_array_equal(shown_action(tab), new)
        click(tab, "#new-noise")
        assert not np.allclose(shown_action(tab), new, atol=1e-3)
        click(tab, "#fixed-noise")
        np.testing.assert_array_equal(shown_action(tab), fixed)

    def test_its_numbers_are_normal(self, tab: Tab) -> None:
        each = "(dipole.state.noiseSeed = seed, [...dipole.noise()])"
        drawn = np.array(tab.run(f"Array.from({{length: 2000}}, (_, seed) => {each})"))
        assert drawn.mean(axis=0) == pytest.approx(0, abs=0.1)
        assert np.cov(drawn.T) == pytest.approx(np.eye(drawn.shape[1]), abs=0.15)
        assert (drawn**4).mean() == pytest.approx(3, abs=0.3)


class TestSweep:
    def require_table(self, tab: Tab, beside: GuidedPolicy, observation: Any, omegas: list[float]) -> None:
        settled(tab)
        titles = texts(tab, "#comparison thead button")
        assert titles == [f"{omega:g}".replace("-", "−") for omega in omegas]
        cells = np.reshape(numbers(tab, "#comparison td", "dataset.value"), (-1, len(omegas)))
        expected = beside.sweep(observation, omegas, beside.deterministic_noise())
        require(cells[:-1].T, [one.action for one in expected])
        require(cells[-1], [one.q.max() for one in expected])
        assert len({tuple(np.round(one.action, 4)) for one in expected}) == len(omegas)

    def test_side_by_side(self, tab: Tab, beside: GuidedPolicy, first: Any) -> None:
        self.require_table(tab, beside, first, COMPARED)
        tab.type("#compared", "−0.5, 3; 3.25")
        self.require_table(tab, beside, first, [-0.5, 3, 3.25])

    @pytest.mark.parametrize(
        ("wrong", "words"),
        [
            ("0, much", "found much"),
            ("5", "found 5, expected numbers from −1 to 4"),
            (", ;", "found 0 numbers"),
            ("1 " * 13, "found 13 numbers"),
        ],
    )
    def test_what_is_no_list_of_omegas(
        self, tab: Tab, beside: GuidedPolicy, first: Any, wrong: str, words: str
    ) -> None:
        tab.type("#compared", wrong)
        assert words in text(tab, "#compared-problem")
        self.require_table(tab, beside, first, COMPARED)

    def test_a_click_on_a_column_turns_the_knob(self, tab: Tab) -> None:
        click(tab, "#comparison thead button", 4)
        settled(tab)
        assert text(tab, "#action-title") == "Action at ω = 2"
        assert numbers(tab, "#knob", "value") == numbers(tab, "#knob + input", "value") == [2]
        column = numbers(tab, "#comparison td.current", "dataset.value")
        require(column[:-1], shown_action(tab))

    def test_the_curves(self, tab: Tab, beside: GuidedPolicy, first: Any) -> None:
        """One for each action and one for q; their first and last points are those of the ends of the range."""
        labels = tab.run(
            "[...document.querySelectorAll('#curve-list svg')].map((svg) => svg.getAttribute('aria-label'))"
        )
        found = [[float(end.replace("−", "-")) for end in re.findall(r"([−\d.e]+) at", label)] for label in labels]
        ends = beside.sweep(first, [-1, 4], beside.deterministic_noise())
        expected = np.transpose([[*one.action, one.q.max()] for one in ends])
        np.testing.assert_allclose(found, expected, rtol=1e-3)
        paths = tab.run("[...document.querySelectorAll('#curve-list path')].map((path) => path.getAttribute('d'))")
        assert [len(re.findall("[ML]", path)) for path in paths] == [25] * 3

    def test_another_knob(self, opened: Open, files: Files, first: Any) -> None:
        """CFGRL's guidance is ω + 1."""
        files = rehashed(files, provenance={"algorithm": "CFGRL", "knob": KNOB}, omega=OmegaRange(0.25, -1.0, 2.0))
        tab, policy = opened(files), policy_of(files)
        settled(tab)
        assert text(tab, "#knob-title") == "Guidance weight w"
        assert text(tab, "#action-title") == "Action at guidance = 1.25"
        assert texts(tab, "#comparison thead button") == ["0", "1", "1.25", "1.5", "2", "3"]
        assert ", guidance = ω + 1 (0: all data)." in text(tab, "#explanation")
        tab.type("#knob + input", "2.5")
        require(shown_action(tab), policy.act(first, 1.5, policy.deterministic_noise()).action)

    def test_an_omega_that_cannot_be_turned(self, opened: Open, files: Files, first: Any) -> None:
        files = rehashed(files, omega=OmegaRange(0.0, 0.0, 0.0))
        tab, policy = opened(files), policy_of(files)
        require(shown_action(tab), policy.act(first, 0.0, policy.deterministic_noise()).action)
        assert "ω" not in str(tab.run("document.body.innerText"))
        assert texts(tab, "#knob") == []
