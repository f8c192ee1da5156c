"""The file of a bundle's page: what it refuses, what it lets out of a bundle, and how it is written."""

from __future__ import annotations

import pathlib
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from dipole_runtime import Bundle
from dipole_runtime.manifest import DETERMINISTIC, GUIDED, MANIFEST, VECTORS, Manifest
from dipole_runtime.page import PAGE, write_page
from headless_browser import Browser
from onnx import helper, numpy_helper
from page_helpers import Files, Open, settled, shown_action, text, texts
from runtime_helpers import assert_one_sentence, refusal_of_call, run_python
from small_bundles import (
    Sizes,
    SmallPolicy,
    dict_parts,
    edited,
    make_files,
    make_policy,
    make_vectors,
    rehashed,
    written,
)

HOSTILE = "</script><img src=x onerror=\"document.body.dataset.state='owned'\"><!--{{script}}"
KNOB = {"name": "guidance", "title": "guidance weight w", "meaning": "0: all data", "more_than_omega": 1.0}


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
        assert tab.run("document.body.dataset.state") == "ready"
        assert texts(tab, "img") == []
        assert tab.run("document.scripts.length") == 7
        assert text(tab, "#bars bdi") == f"0{HOSTILE}"
        assert text(tab, "#observation-sliders bdi").startswith("</script><img")
        assert HOSTILE in text(tab, "#facts")
        assert HOSTILE in text(tab, "h1")
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
        assert len(texts(tab, "footer img")) == 1
        assert tab.run("document.body.dataset.state") == "ready"
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
        assert tab.run("document.body.dataset.state") == "ready"
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

    def test_the_same_bundle_gives_the_same_bytes(self, paged_files: Files, tmp_path: pathlib.Path) -> None:
        here = write_page(Bundle.from_files(paged_files, "elsewhere"), tmp_path / "one").read_bytes()
        folder = written(paged_files, tmp_path / "bundle")
        result = run_python("-m", "dipole_runtime", "page", str(folder), "two", cwd=tmp_path)
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
        assert len(texts(tab, "#observation-sliders .slider")) == 64
        tab.run("document.querySelectorAll('#observation-sliders details')[7].open = true")
        tab.wait("document.querySelectorAll('#observation-sliders .slider').length === 64 + 52")
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
        other = replace(vectors, candidates=vectors.candidates * np.float32(0.5))
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
