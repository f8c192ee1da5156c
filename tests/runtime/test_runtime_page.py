"""The page of a bundle, in a real browser: its numbers are the runtime's, and a bundle's texts stay texts."""

from __future__ import annotations

import json
import pathlib
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dipole_runtime import Bundle, GuidedPolicy
from dipole_runtime.manifest import DETERMINISTIC, GUIDED, MANIFEST, VECTORS, Manifest, OmegaRange
from dipole_runtime.observations import observation_of
from dipole_runtime.page import PAGE, write_page
from headless_browser import Browser, Tab, running
from onnx import helper, numpy_helper
from runtime_helpers import assert_one_sentence, refusal_of_call, run_python
from small_bundles import (
    Sizes,
    SmallPolicy,
    dict_parts,
    edited,
    make_action_vectors,
    make_files,
    make_policy,
    make_vectors,
    observation_and_noise,
    rehashed,
)

Files = dict[str, bytes]
Open = Callable[..., Tab]

HOSTILE = "</script><img src=x onerror=\"document.body.dataset.state='owned'\"><!--{{script}}"
KNOB = {"name": "guidance", "title": "guidance weight w", "meaning": "0: all data", "more_than_omega": 1.0}


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with running(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def opened(browser: Browser, tmp_path: pathlib.Path) -> Iterator[Open]:
    """Files of a bundle → its page in a tab."""
    tabs: list[Tab] = []

    def open_page(files: Files, **size: int) -> Tab:
        page = write_page(Bundle.from_files(files, "robot's bundle"), tmp_path / f"page{len(tabs)}")
        tabs.append(browser.open(page, **size))
        return tabs[-1]

    yield open_page
    for tab in tabs:
        tab.close()


def policy_of(files: Files) -> GuidedPolicy:
    return GuidedPolicy.from_bundle(Bundle.from_files(files, "robot's bundle"))


def settled(tab: Tab) -> None:
    tab.wait("document.body.dataset.settled === 'true'")


def shown_action(tab: Tab) -> np.ndarray[Any, Any]:
    """What the bars show, in full."""
    settled(tab)
    return np.array(tab.run("[...document.querySelectorAll('#bars li')].map((row) => Number(row.dataset.value))"))


def numbers(tab: Tab, selector: str, key: str) -> list[float]:
    """Of every element that matches, as JavaScript reads them."""
    found: list[float] = tab.run(
        f"[...document.querySelectorAll({json.dumps(selector)})].map((element) => Number(element.{key}))"
    )
    return found


def texts(tab: Tab, selector: str) -> list[str]:
    found: list[str] = tab.run(
        f"[...document.querySelectorAll({json.dumps(selector)})].map((element) => element.textContent)"
    )
    return found


def text(tab: Tab, selector: str) -> str:
    return str(tab.run(f"document.querySelector({json.dumps(selector)}).textContent"))


def ready(tab: Tab) -> bool:
    return bool(tab.run("document.body.dataset.state === 'ready'"))


def computed(tab: Tab, observation: Any, noise: Any = None, omegas: Any = None) -> tuple[Any, Any]:
    """(action, q) of the page's policy, flat."""
    arrays = [
        f"Float32Array.of({', '.join(map(repr, np.ravel(one).tolist()))})"
        for one in (observation, noise, omegas)
        if one is not None
    ]
    call = f"dipole.policy.run({', '.join(arrays)}).then(({{action, q}}) => [[...action], [...q]])"
    action, q = tab.run(call)
    return np.array(action), np.array(q)


class TestNumbers:
    @pytest.mark.parametrize("count", [1, 3, 7])
    def test_they_are_the_runtimes(self, opened: Open, files: Files, small: SmallPolicy, count: int) -> None:
        tab, policy = opened(files), policy_of(files)
        omegas = [-1.0, 0.0, 0.37, 1.0, 4.0]
        for seed in range(5):
            observation, noise = observation_and_noise(small, seed, count)
            action, q = computed(tab, observation, noise, omegas)
            expected = policy.sweep(observation, omegas, noise=noise)
            np.testing.assert_allclose(action.reshape(5, -1), [one.action for one in expected], atol=1e-5)
            np.testing.assert_allclose(q.reshape(5, -1), [one.q for one in expected], atol=1e-5)

    def test_dict_observations(self, opened: Open, small_dict: SmallPolicy, dict_policy: GuidedPolicy) -> None:
        tab = opened(make_files(small_dict))
        flat, noise = observation_and_noise(small_dict, 3)
        expected = dict_policy.act(observation_of(dict_policy.manifest.observation, flat), 2.0, noise)
        action, q = computed(tab, flat, noise, [2.0])
        np.testing.assert_allclose(action, expected.action, atol=1e-5)
        np.testing.assert_allclose(q, expected.q, atol=1e-5)
        groups = tab.run("[...document.querySelectorAll('summary bdi')].map((key) => key.textContent)")
        assert groups == ["goal", "arm", "buttons"]
        assert tab.run("document.querySelectorAll('#observation-sliders .slider').length") == 7

    def test_a_deterministic_policy(self, opened: Open, deterministic_files: Files, small: SmallPolicy) -> None:
        tab, policy = opened(deterministic_files), policy_of(deterministic_files)
        for seed in range(5):
            observation, _ = observation_and_noise(small, seed)
            expected = policy.act(observation)
            action, q = computed(tab, observation)
            np.testing.assert_allclose(action, expected.action, atol=1e-5)
            np.testing.assert_allclose(q, expected.q, atol=1e-5)
        np.testing.assert_allclose(
            shown_action(tab), policy.act(make_action_vectors(small).observations[0]).action, atol=1e-5
        )
        seen = text(tab, "header") + str(tab.run("document.querySelector('main').innerText"))
        assert "deterministic" in seen
        assert not re.search("ω|noise|andidate|undefined|NaN", seen), seen

    def test_it_says_how_far_it_is_from_the_trainer(self, opened: Open, any_files: Files) -> None:
        tab = opened(any_files)
        assert re.match("Agrees with the trainer to .* on 3 test vectors, in this browser", text(tab, "#status"))
        for name in ("action", "q"):
            assert 0 < float(tab.run(f"document.querySelector('#status').dataset.{name}")) < 1e-5


class TestControls:
    def test_what_is_shown_at_first(self, opened: Open, files: Files, small: SmallPolicy) -> None:
        """The first test vector, the default ω and N, and the noise of predict(deterministic=True)."""
        tab, policy = opened(files), policy_of(files)
        expected = policy.act(make_vectors(small).observations[0], noise=policy.deterministic_noise())
        np.testing.assert_allclose(shown_action(tab), expected.action, atol=1e-5)
        assert float(tab.run("document.querySelector('#q strong').dataset.value")) == pytest.approx(
            expected.q.max(), abs=1e-5
        )
        words = text(tab, "header")
        for part in (
            "v = (1 + ω)·v⁺ − ω·v⁻",
            "negative policy",
            "positive one",
            "greedier",
            "nothing is sent anywhere",
        ):
            assert part in words
        assert "undefined" not in str(tab.run("document.body.innerText"))

    def test_each_element_of_the_observation(self, opened: Open, files: Files, small: SmallPolicy) -> None:
        tab, policy = opened(files), policy_of(files)
        observation = make_vectors(small).observations[0].copy()
        names = tab.run(
            "[...document.querySelectorAll('#observation-sliders label')].map((label) => label.textContent)"
        )
        assert names == list(policy.manifest.observation.names)
        for index, value in enumerate((0.25, -1.5, 0.75)):
            before = shown_action(tab)
            tab.type(f"#observation-{index} + input", str(value))
            observation[index] = value
            expected = policy.act(observation, noise=policy.deterministic_noise()).action
            np.testing.assert_allclose(shown_action(tab), expected, atol=1e-5)
            assert not np.allclose(before, expected, atol=1e-4), "the element changes nothing: the test shows nothing"

    def test_the_slider_itself(self, opened: Open, files: Files, small: SmallPolicy) -> None:
        tab, policy = opened(files), policy_of(files)
        observation = make_vectors(small).observations[0].copy()
        settled(tab)
        tab.press("#observation-0", "End")
        observation[0] = float(tab.run("document.querySelector('#observation-0').max"))
        expected = policy.act(observation, noise=policy.deterministic_noise()).action
        np.testing.assert_allclose(shown_action(tab), expected, atol=1e-5)
        assert float(tab.run("document.querySelector('#observation-0 + input').value")) == pytest.approx(
            observation[0], rel=1e-5
        )

    def test_observations_of_the_test_vectors(self, opened: Open, files: Files, small: SmallPolicy) -> None:
        tab, policy = opened(files), policy_of(files)
        for index in (2, 1, 0):
            settled(tab)
            tab.run(f"document.querySelectorAll('#vectors button')[{index}].click()")
            observation = make_vectors(small).observations[index]
            expected = policy.act(observation, noise=policy.deterministic_noise()).action
            np.testing.assert_allclose(shown_action(tab), expected, atol=1e-5)
            fields = numbers(tab, "#observation-sliders [type=number]", "value")
            np.testing.assert_allclose(fields, observation, rtol=1e-5)

    @pytest.mark.parametrize(("key", "omega"), [("Home", -1.0), ("End", 4.0)])
    def test_omega(self, opened: Open, files: Files, small: SmallPolicy, key: str, omega: float) -> None:
        tab, policy = opened(files), policy_of(files)
        before = shown_action(tab)
        tab.press("#knob", key)
        expected = policy.act(make_vectors(small).observations[0], omega, policy.deterministic_noise()).action
        np.testing.assert_allclose(shown_action(tab), expected, atol=1e-5)
        assert not np.allclose(before, expected, atol=1e-4)
        assert text(tab, "#action-title") == f"Action at ω = {omega:g}".replace("-", "−")

    def test_omega_out_of_range_is_refused(self, opened: Open, files: Files) -> None:
        """As the runtime does, never clipped silently."""
        tab = opened(files)
        before = shown_action(tab)
        tab.type("#knob + input", "7")
        np.testing.assert_array_equal(shown_action(tab), before)
        assert "from −1 to 4" in tab.run("document.querySelector('#knob + input').validationMessage")
        assert tab.run("dipole.state.omega") == 0.5
        tab.type("#knob + input", "2.25")
        assert tab.run("[dipole.state.omega, document.querySelector('#knob + input').validity.valid]") == [2.25, True]

    def test_candidates(self, opened: Open, files: Files, small: SmallPolicy) -> None:
        tab, policy = opened(files), policy_of(files)
        for count in (1, 32):
            settled(tab)
            tab.type("#candidates + input", str(count))
            decision = policy.act(make_vectors(small).observations[0], noise=policy.deterministic_noise(count))
            np.testing.assert_allclose(shown_action(tab), decision.action, atol=1e-5)
            assert tab.run("document.querySelectorAll('#dots circle').length") == (count if count > 1 else 0)

    def test_noise(self, opened: Open, files: Files) -> None:
        """New noise is standard normal and stays; the fixed one comes back."""
        tab = opened(files)
        fixed = shown_action(tab)
        tab.run("document.querySelector('#new-noise').click()")
        new = shown_action(tab)
        assert not np.allclose(fixed, new, atol=1e-3)
        tab.run("document.querySelectorAll('#vectors button')[0].click()")
        np.testing.assert_array_equal(shown_action(tab), new)
        tab.run("document.querySelector('#new-noise').click()")
        assert not np.allclose(shown_action(tab), new, atol=1e-3)
        tab.run("document.querySelector('#fixed-noise').click()")
        np.testing.assert_array_equal(shown_action(tab), fixed)
        drawn = np.array(
            tab.run(
                "Array.from({length: 2000}, (_, seed) => {dipole.state.noiseSeed = seed; return [...dipole.noise()]})"
            )
        )
        assert drawn.mean(axis=0) == pytest.approx(0, abs=0.1)
        assert np.cov(drawn.T) == pytest.approx(np.eye(drawn.shape[1]), abs=0.15)


class TestSweep:
    def test_side_by_side(self, opened: Open, files: Files, small: SmallPolicy) -> None:
        tab, policy = opened(files), policy_of(files)
        self.require_table(tab, policy, small, [-1, 0, 0.5, 1, 2, 4])
        tab.type("#compared", "−0.5, 3; 3.25")
        self.require_table(tab, policy, small, [-0.5, 3, 3.25])

    def require_table(self, tab: Tab, policy: GuidedPolicy, small: SmallPolicy, omegas: list[float]) -> None:
        settled(tab)
        titles = tab.run(
            "[...document.querySelectorAll('#comparison thead button')].map((button) => button.textContent)"
        )
        assert titles == [f"{omega:g}".replace("-", "−") for omega in omegas]
        rows = "[...document.querySelectorAll('#comparison tbody tr, #comparison tfoot tr')]"
        cells = tab.run(
            f"{rows}.map((row) => [...row.querySelectorAll('td')].map((cell) => Number(cell.dataset.value)))"
        )
        expected = policy.sweep(make_vectors(small).observations[0], omegas, policy.deterministic_noise())
        np.testing.assert_allclose(np.transpose(cells[:-1]), [one.action for one in expected], atol=1e-5)
        np.testing.assert_allclose(cells[-1], [one.q.max() for one in expected], atol=1e-5)
        assert len({tuple(np.round(one.action, 4)) for one in expected}) == len(omegas)

    def test_what_is_no_list_of_omegas(self, opened: Open, files: Files, small: SmallPolicy) -> None:
        tab = opened(files)
        settled(tab)
        for wrong, words in (("0, much", "found much"), ("5", "numbers from −1 to 4"), (", ;", "expected 1 to 12")):
            tab.type("#compared", wrong)
            assert words in text(tab, "#compared-problem")
        self.require_table(tab, policy_of(files), small, [-1, 0, 0.5, 1, 2, 4])

    def test_a_click_on_a_column_turns_the_knob(self, opened: Open, files: Files) -> None:
        tab = opened(files)
        settled(tab)
        tab.run("document.querySelectorAll('#comparison thead button')[4].click()")
        settled(tab)
        assert text(tab, "#action-title") == "Action at ω = 2"
        assert tab.run("document.querySelector('#knob').value") == "2"
        column = tab.run(
            "[...document.querySelectorAll('#comparison td.current')].map((cell) => Number(cell.dataset.value))"
        )
        np.testing.assert_allclose(column[:-1], shown_action(tab), atol=1e-6)

    def test_the_curves(self, opened: Open, files: Files, small: SmallPolicy) -> None:
        """One for each action and one for q; their first and last points are those of the ends of the range."""
        tab, policy = opened(files), policy_of(files)
        settled(tab)
        labels = tab.run(
            "[...document.querySelectorAll('#curve-list svg')].map((svg) => svg.getAttribute('aria-label'))"
        )
        ends = policy.sweep(make_vectors(small).observations[0], [-1, 4], policy.deterministic_noise())
        found = [
            [float(number.replace("−", "-")) for number in re.findall(r"([−\d.e]+) at", label)] for label in labels
        ]
        expected = np.transpose([[*one.action, one.q.max()] for one in ends])
        np.testing.assert_allclose(found, expected, rtol=1e-3)
        paths = tab.run("[...document.querySelectorAll('#curve-list path')].map((path) => path.getAttribute('d'))")
        assert [len(re.findall("[ML]", path)) for path in paths] == [25] * 3

    def test_another_knob(self, opened: Open, files: Files, small: SmallPolicy) -> None:
        """CFGRL's guidance is ω + 1."""
        files = rehashed(files, provenance={"algorithm": "CFGRL", "knob": KNOB}, omega=OmegaRange(0.25, -1.0, 2.0))
        tab, policy = opened(files), policy_of(files)
        settled(tab)
        assert text(tab, "#knob-title") == "Guidance weight w"
        assert text(tab, "#action-title") == "Action at guidance = 1.25"
        tab.type("#knob + input", "2.5")
        expected = policy.act(make_vectors(small).observations[0], 1.5, policy.deterministic_noise()).action
        np.testing.assert_allclose(shown_action(tab), expected, atol=1e-5)
        titles = tab.run(
            "[...document.querySelectorAll('#comparison thead button')].map((button) => button.textContent)"
        )
        assert titles == ["0", "1", "1.25", "1.5", "2", "3"]
        assert "you turn guidance = ω + 1 (0: all data)" in text(tab, "#explanation")

    def test_an_omega_that_cannot_be_turned(self, opened: Open, files: Files, small: SmallPolicy) -> None:
        files = rehashed(files, omega=OmegaRange(0.0, 0.0, 0.0))
        tab, policy = opened(files), policy_of(files)
        expected = policy.act(make_vectors(small).observations[0], 0.0, policy.deterministic_noise()).action
        np.testing.assert_allclose(shown_action(tab), expected, atol=1e-5)
        assert "ω" not in str(tab.run("document.querySelector('main').innerText"))
        assert tab.run("document.querySelector('#knob')") is None


class TestRefusals:
    def test_another_action_than_the_trainers(self, browser: Browser, files: Files, tmp_path: pathlib.Path) -> None:
        """A browser that computes something else: the page shows no action at all."""
        page = write_page(Bundle.from_files(files, "b"), tmp_path / "page")
        html = page.read_text()
        tolerance = html.replace('"tolerance":{"action":0.0001', '"tolerance":{"action":1e-12')
        assert tolerance != html
        page.write_text(tolerance)
        tab = browser.open(page)
        assert tab.run("document.body.dataset.state") == "refused"
        assert "in this browser the policy differs from the trainer's by" in text(tab, "#status[role=alert]")
        assert tab.run("document.querySelector('main').checkVisibility()") is False
        tab.close()

    def test_a_damaged_graph(self, browser: Browser, files: Files, tmp_path: pathlib.Path) -> None:
        page = write_page(Bundle.from_files(files, "b"), tmp_path / "page")
        page.write_text(re.sub('(id="graph">.{400}).{40}', r"\1" + "A" * 40, page.read_text()))
        tab = browser.open(page)
        assert "refuses to act" in text(tab, "#status[role=alert]")
        tab.close()

    def test_an_action_that_is_not_finite(self, opened: Open, deterministic_files: Files) -> None:
        def edit(model: Any) -> None:
            """NaN where an observation is zero; the test vectors hold none."""
            (node,) = [node for node in model.graph.node if "action" in node.output]
            node.output[0] = "action_before"
            model.graph.initializer.append(numpy_helper.from_array(np.array([1], np.int64), "axis"))
            model.graph.node.extend(
                [
                    helper.make_node("ReduceSumSquare", ["observation", "axis"], ["length"], keepdims=0),
                    helper.make_node("Div", ["length", "length"], ["one_or_nan"]),
                    helper.make_node("ReduceMax", ["one_or_nan"], ["factor"], keepdims=0),
                    helper.make_node("Mul", ["action_before", "factor"], ["action"]),
                ]
            )

        tab = opened(edited(deterministic_files, DETERMINISTIC, edit))
        settled(tab)
        for index in range(3):
            tab.type(f"#observation-{index} + input", "0")
        tab.wait("document.body.dataset.state === 'refused'")
        assert "NaN or infinity" in text(tab, "#status[role=alert]")


class TestHostileBundles:
    def hostile(self, files: Files) -> Files:
        manifest = Manifest.from_bytes(files[MANIFEST], "b")
        observation = replace(
            manifest.observation,
            names=tuple(f"{HOSTILE}{index}"[-128:] for index in range(manifest.observation.size)),
            parts=tuple(replace(part, key=HOSTILE) for part in manifest.observation.parts),
        )
        action = replace(manifest.action, names=tuple(f"{index}{HOSTILE}" for index in range(manifest.action.size)))
        texts = dict.fromkeys(("name", "title", "meaning"), HOSTILE)
        provenance = {
            "algorithm": HOSTILE + "\u202e\u2028\n",
            "dataset": {"name": HOSTILE},
            "knob": {**texts, "more_than_omega": 1},
        }
        return rehashed(files, observation=observation, action=action, provenance=provenance)

    def test_names_stay_names(self, opened: Open, files: Files) -> None:
        tab = opened(self.hostile(files))
        settled(tab)
        assert ready(tab)
        assert tab.run("document.querySelectorAll('img').length") == 0
        assert tab.run("document.scripts.length") == 7
        assert text(tab, "#bars bdi") == f"0{HOSTILE}"
        assert text(tab, "#observation-sliders bdi").startswith("</script><img")
        assert HOSTILE in text(tab, "#facts")
        assert "\u202e" not in text(tab, "body")
        assert text(tab, "#knob-title").startswith("</script>")
        assert tab.events("Log.entryAdded") == []

    def test_the_page_runs_its_own_script_alone(self, browser: Browser, files: Files, tmp_path: pathlib.Path) -> None:
        """Even if a text got out of its place, the browser would not run it."""
        page = write_page(Bundle.from_files(files, "b"), tmp_path / "page")
        injected = HOSTILE + "--><script>document.body.dataset.state = 'owned'</script>"
        page.write_text(page.read_text().replace("<footer>", f"<footer>{injected}"))
        tab = browser.open(page)
        settled(tab)
        assert tab.run("document.querySelectorAll('footer img').length") == 1
        assert ready(tab)
        assert len(tab.events("Log.entryAdded")) >= 2
        tab.close()

    @pytest.mark.parametrize(
        "provenance",
        [
            {"knob": "w", "algorithm": 3, "dataset": "d"},
            {"knob": {**KNOB, "more_than_omega": "1"}},
            {"knob": {**KNOB, "more_than_omega": True}},
            {"knob": {**KNOB, "more_than_omega": 1e300}},
            {"knob": {**KNOB, "meaning": None}},
        ],
        ids=str,
    )
    def test_a_provenance_of_another_kind(self, files: Files, provenance: Any, tmp_path: pathlib.Path) -> None:
        """It is free, so the page goes by ω, which is always right."""
        bundle = Bundle.from_files(rehashed(files, provenance=provenance), "b")
        assert '"knob":null' in write_page(bundle, tmp_path / "page").read_text()


class TestFile:
    def test_no_network(self, opened: Open, files: Files) -> None:
        tab = opened(files)
        settled(tab)
        assert ready(tab)
        asked = [event["request"]["url"] for event in tab.events("Network.requestWillBeSent")]
        assert len([url for url in asked if url.startswith("file:")]) == 1
        assert [url for url in asked if not url.startswith(("file:", "blob:"))] == []

    def test_one_file_that_refers_to_nothing(self, files: Files, tmp_path: pathlib.Path) -> None:
        page = write_page(Bundle.from_files(files, "b"), tmp_path / "page")
        assert [path.name for path in page.parent.iterdir()] == [PAGE]
        html = page.read_text()
        assert set(re.findall(r"https?://[^\s\"']*", html)) == {"http://www.w3.org/2000/svg"}
        assert re.findall(r"\b(?:src|href)=", html) == []
        assert "MIT" in html

    def test_the_licence_is_in_it(self, opened: Open, files: Files) -> None:
        tab = opened(files)
        tab.run("document.querySelector('#notices').open = true")
        tab.wait("document.querySelector('#notices-text').textContent")
        for words in ("ONNX Runtime Web 1.", "MIT License", "Permission is hereby granted", "protobuf"):
            assert words in text(tab, "#notices-text")

    def test_the_same_bundle_gives_the_same_bytes(
        self, any_folder: pathlib.Path, any_files: Files, tmp_path: pathlib.Path
    ) -> None:
        here = write_page(Bundle.from_files(any_files, "elsewhere"), tmp_path / "one").read_bytes()
        result = run_python("-m", "dipole_runtime", "page", str(any_folder), "two", cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        assert re.fullmatch(rf"two/{PAGE}: \d+\.\d MB; open it in any browser, it needs no network\n", result.stdout)
        assert (tmp_path / "two" / PAGE).read_bytes() == here

    def test_an_older_page_is_replaced(self, files: Files, tmp_path: pathlib.Path) -> None:
        (tmp_path / PAGE).write_text("old")
        (tmp_path / "notes.txt").write_text("mine")
        page = write_page(Bundle.from_files(files, "b"), tmp_path)
        assert page.read_text().startswith("<!DOCTYPE html>")
        assert sorted(path.name for path in tmp_path.iterdir()) == [PAGE, "notes.txt"]
        assert page.stat().st_mode & 0o777 == (tmp_path / "notes.txt").stat().st_mode & 0o777

    def test_very_many_observations(self, opened: Open, tmp_path: pathlib.Path) -> None:
        """Sliders are made when their group is opened."""
        parts = (replace(dict_parts()[1], key=None, shape=(500,)),)
        tab = opened(make_files(make_policy(Sizes(500, hidden=(4,)), parts)))
        count = "document.querySelectorAll('#observation-sliders .slider').length"
        assert tab.run(count) == 64
        tab.run("document.querySelectorAll('#observation-sliders details')[7].open = true")
        tab.wait(f"{count} === 64 + 52")
        before = shown_action(tab)
        tab.type("#observation-499 + input", "30")
        assert not np.array_equal(shown_action(tab), before)

    @pytest.mark.parametrize("width", [1280, 360])
    def test_nothing_is_wider_than_the_window(self, opened: Open, files: Files, width: int) -> None:
        tab = opened(files, width=width)
        settled(tab)
        assert tab.run("document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0


class TestErrors:
    def test_a_bundle_that_is_refused(self, folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
        (folder / GUIDED).write_bytes((folder / GUIDED).read_bytes()[:-1])
        result = run_python("-m", "dipole_runtime", "page", str(folder), "out", cwd=tmp_path)
        assert (result.returncode, result.stdout) == (1, "")
        assert_one_sentence(result.stderr.strip("\n"), str(folder), GUIDED)
        assert not (tmp_path / "out").exists()

    def test_a_bundle_that_acts_otherwise(self, files: Files, small: SmallPolicy, tmp_path: pathlib.Path) -> None:
        vectors = make_vectors(small)
        other = replace(vectors, candidates=vectors.candidates + np.float32(0.5))
        bundle = Bundle.from_files(rehashed({**files, VECTORS: other.to_bytes()}), "robot's bundle")
        assert "trainer" in refusal_of_call(write_page, bundle, tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_file_in_its_place(self, files: Files, tmp_path: pathlib.Path) -> None:
        (tmp_path / "out").write_text("mine")
        sentence = refusal_of_call(write_page, Bundle.from_files(files, "b"), tmp_path / "out")
        assert sentence.endswith("out is a file, expected a folder")
        assert (tmp_path / "out").read_text() == "mine"

    def test_a_bundle_in_its_place(self, files: Files, folder: pathlib.Path) -> None:
        before = sorted(folder.iterdir())
        assert "is a bundle" in refusal_of_call(write_page, Bundle.from_files(files, "b"), folder)
        assert sorted(folder.iterdir()) == before

    @pytest.mark.parametrize("out", ["file/below", "a\0b", "out"])
    def test_what_cannot_be_written(self, files: Files, tmp_path: pathlib.Path, out: str) -> None:
        (tmp_path / "file").write_text("")
        (tmp_path / "out" / PAGE).mkdir(parents=True)
        sentence = refusal_of_call(write_page, Bundle.from_files(files, "b"), tmp_path / out)
        assert sentence.startswith("cannot write ")
        assert [path.name for path in (tmp_path / "out").iterdir()] == [PAGE]

    def test_a_disk_that_is_full(self, files: Files, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: Any) -> None:
            raise OSError(28, "No space left on device")

        (tmp_path / PAGE).write_text("old")
        monkeypatch.setattr(pathlib.Path, "replace", fail)
        assert "No space left" in refusal_of_call(write_page, Bundle.from_files(files, "b"), tmp_path)
        assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [(PAGE, "old")]

    def test_a_bundle_too_large_for_a_page(
        self, files: Files, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dipole_runtime.page.MAX_CONTENT", 1000)
        assert "expected at most 1000" in refusal_of_call(write_page, Bundle.from_files(files, "b"), tmp_path / "out")
