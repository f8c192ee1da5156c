"""inspect, selftest and bench, as users run them."""

from __future__ import annotations

import io
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import onnx
import pytest
from dipole_runtime.__main__ import main
from dipole_runtime.archive import archive_bytes
from dipole_runtime.benchmark import Latency, draw_histograms, table
from dipole_runtime.manifest import MANIFEST, NEGATIVE, POSITIVE, Parity
from onnx import numpy_helper
from runtime_helpers import assert_one_sentence, environment, run_python
from small_bundles import PAIR_DATA, Sizes, dict_parts, edited, make_files, make_policy, rehashed, written

Files = dict[str, bytes]


def run(*arguments: str | pathlib.Path, cwd: pathlib.Path | None = None) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "dipole_runtime", *map(str, arguments), cwd=cwd)


@pytest.fixture(scope="module")
def dict_bundle(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return written(make_files(make_policy(Sizes(7), dict_parts())), tmp_path_factory.mktemp("cli") / "dict")


@pytest.fixture(scope="module")
def deterministic_bundle(deterministic_files: Files, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return written(deterministic_files, tmp_path_factory.mktemp("cli") / "deterministic")


class TestInspect:
    def test_it_says_what_the_bundle_holds(self, zipped_bundle: pathlib.Path, files: Files) -> None:
        result = run("inspect", zipped_bundle)
        assert (result.returncode, result.stderr) == (0, "")
        manifest = files[MANIFEST].decode()
        expected = [
            str(zipped_bundle),
            "opset 20",
            "fp32",
            "4 steps, 3 candidates",
            "0.5 by default, -1.0 to 4.0",
            "1.00e-06",
            *PAIR_DATA,
            *(f"{len(files[name]):,}" for name in PAIR_DATA),
            *re.findall(r'"sha256": "(.{12})', manifest),
            *re.findall(r'"checksum": "(.*)"', manifest),
            *re.findall(r'"((?:observation|joint)_\d)"', manifest),
            "data set",
        ]
        for words in expected:
            assert words in result.stdout, words

    def test_a_deterministic_policy(self, deterministic_bundle: pathlib.Path) -> None:
        result = run("inspect", deterministic_bundle)
        assert (result.returncode, result.stderr) == (0, "")
        for words in ("format       2,", "policy       deterministic: one action", "deterministic_policy.onnx"):
            assert words in result.stdout, words
        assert not re.search("omega|candidates|flow", result.stdout)

    def test_dict_observations(self, dict_bundle: pathlib.Path) -> None:
        lines = run("inspect", dict_bundle).stdout.splitlines()
        (arm,) = [line.split() for line in lines if line.split()[:1] == ["arm"]]
        assert arm == ["arm", "[2,", "2]", "float32", "Box", "none"]
        assert any("(x - mean) / std, within ±10" in line for line in lines if line.split()[:1] == ["goal"])

    def test_nothing_in_it_steers_the_terminal(self, files: Files, tmp_path: pathlib.Path) -> None:
        path = written(rehashed(files, provenance={"note\x9b2J": "\x1b[2J\u202e\n\x07"}), tmp_path / "b")
        result = run("inspect", path)
        assert result.returncode == 0
        assert all(character.isprintable() or character == "\n" for character in result.stdout)

    def test_very_many_observations_are_counted(self, tmp_path: pathlib.Path) -> None:
        parts = (dict_parts()[1].__class__(None, (500,), "float32", "Box", None),)
        path = written(make_files(make_policy(Sizes(500, hidden=(4,)), parts)), tmp_path / "b")
        result = run("inspect", path)
        assert "… and 436 more" in result.stdout
        assert len(result.stdout.splitlines()) < 60


class TestSelftest:
    @pytest.mark.parametrize("fixture", ["zipped_bundle", "dict_bundle"])
    def test_it_passes(self, fixture: str, request: pytest.FixtureRequest) -> None:
        result = run("selftest", request.getfixturevalue(fixture))
        assert (result.returncode, result.stderr) == (0, "")
        rows = {line[:18].strip(): line[18:].split() for line in result.stdout.splitlines()}
        assert rows["at export"] == ["1.00e-06", "1.00e-06"]
        assert rows["accepted"] == ["1.00e-04", "1.00e-04"]
        for path in ("the fused graph", "the two networks"):
            assert all(0 < float(error) < 1e-5 for error in rows[path])
        assert "passed" in result.stdout

    def test_a_deterministic_policy(self, deterministic_bundle: pathlib.Path) -> None:
        result = run("selftest", deterministic_bundle)
        assert (result.returncode, result.stderr) == (0, "")
        rows = {line[:18].strip(): line[18:].split() for line in result.stdout.splitlines()}
        for path in ("the policy", "the critic apart"):
            assert all(0 < float(error) < 1e-5 for error in rows[path])
        assert "3 test vectors, ONNX" in result.stdout
        assert "passed" in result.stdout

    def test_it_fails(self, files: Files, tmp_path: pathlib.Path) -> None:
        """Both paths are measured and printed before the verdict."""
        swapped = rehashed({**files, POSITIVE: files[NEGATIVE], NEGATIVE: files[POSITIVE]})
        path = written(swapped, tmp_path / "b")
        result = run("selftest", path)
        assert result.returncode == 1
        assert_one_sentence(result.stderr.strip(), str(path), "the two networks", "action")
        assert "the fused graph" in result.stdout
        assert "the two networks" in result.stdout
        assert "passed" not in result.stdout

    def test_what_it_measures_decides(self, files: Files, tmp_path: pathlib.Path) -> None:
        """Tolerances below what float32 can give."""
        path = written(rehashed(files, parity=Parity(0.0, 1e-12, 0.0, 1e-12)), tmp_path / "b")
        assert run("selftest", path).returncode == 1


class TestBench:
    def test_a_table_and_a_picture(self, zipped_bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
        pytest.importorskip("matplotlib")
        from matplotlib.image import imread

        picture = tmp_path / "latency.png"
        result = run(
            "bench", zipped_bundle, "--runs", "30", "--omegas", "1", "5", "--candidates", "1", "4", "--png", picture
        )
        assert (result.returncode, result.stderr) == (0, "")
        rows = [line.split() for line in result.stdout.splitlines() if re.match(r" +\d", line)]
        assert [row[:3] for row in rows] == [["1", "1", "30"], ["1", "4", "30"], ["5", "1", "30"], ["5", "4", "30"]]
        for row in rows:
            numbers = [float(number) for number in row[3:]]
            assert numbers == sorted(numbers)
            assert numbers[0] > 0
        pixels = imread(picture)
        assert pixels.shape[0] > 300
        assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 3

    def test_without_matplotlib(self, zipped_bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
        (tmp_path / "matplotlib.py").write_text("raise ImportError('no module named matplotlib')")
        result = run("bench", zipped_bundle, "--runs", "5", "--candidates", "1", "--png", "latency.png", cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "")
        assert result.stdout.splitlines()[-1] == "no histograms: matplotlib is not installed"
        assert not (tmp_path / "latency.png").exists()

    def test_defaults(self, dict_bundle: pathlib.Path) -> None:
        result = run("bench", dict_bundle, "--runs", "3", "--threads", "2")
        assert (result.returncode, result.stderr) == (0, "")
        settings = [tuple(line.split()[:2]) for line in result.stdout.splitlines() if re.match(r" +\d", line)]
        assert settings == [(omegas, candidates) for omegas in "15" for candidates in ("1", "3", "32")]

    def test_a_deterministic_policy(self, deterministic_bundle: pathlib.Path) -> None:
        """One setting; there is nothing to vary."""
        result = run("bench", deterministic_bundle, "--runs", "5")
        assert (result.returncode, result.stderr) == (0, "")
        (row,) = [line.split() for line in result.stdout.splitlines() if re.match(r" +-", line)]
        assert row[:3] == ["-", "-", "5"]
        for option in ("--omegas", "--candidates"):
            refused = run("bench", deterministic_bundle, option, "1")
            assert refused.returncode == 1
            assert_one_sentence(refused.stderr.strip(), str(deterministic_bundle), "nothing for", option)

    def test_a_picture_that_cannot_be_written(self, zipped_bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
        pytest.importorskip("matplotlib")
        picture = tmp_path / "no" / "folder.png"
        result = run("bench", zipped_bundle, "--runs", "3", "--candidates", "1", "--png", picture)
        assert result.returncode == 1
        assert_one_sentence(result.stderr.strip(), str(picture), "No such file or directory")

    @pytest.mark.parametrize(
        "arguments", [["--runs", "0"], ["--omegas", "0"], ["--candidates", "x"], ["--threads", "-1"]]
    )
    def test_wrong_arguments(
        self, zipped_bundle: pathlib.Path, arguments: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(SystemExit) as raised:
            main(["bench", str(zipped_bundle), *arguments])
        assert raised.value.code == 2
        assert arguments[0] in capsys.readouterr().err

    def test_too_many_candidates(self, zipped_bundle: pathlib.Path) -> None:
        result = run("bench", zipped_bundle, "--runs", "1", "--candidates", "5000")
        assert result.returncode == 1
        assert_one_sentence(result.stderr.strip(), "num_candidates is 5000")

    def test_percentiles(self) -> None:
        (_, line) = table([Latency(1, 4, np.arange(1, 102) * 1e-3)])
        assert line.split() == ["1", "4", "101", "51.000", "91.000", "100.000", "101.000"]

    def test_equal_latencies_can_be_drawn(self, tmp_path: pathlib.Path) -> None:
        pytest.importorskip("matplotlib")
        assert draw_histograms([Latency(1, 4, np.full(10, 1e-3))], tmp_path / "p.png")


class TestErrors:
    @pytest.mark.parametrize("command", ["inspect", "selftest", "bench"])
    def test_a_bad_bundle(self, command: str, zipped_bundle: pathlib.Path, tmp_path: pathlib.Path) -> None:
        path = tmp_path / "cut.dipole"
        path.write_bytes(zipped_bundle.read_bytes()[:-100])
        result = run(command, path)
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.endswith("\n")
        assert_one_sentence(result.stderr.strip("\n"), str(path), "truncated")

    @pytest.mark.parametrize("command", ["inspect", "selftest", "bench"])
    def test_no_bundle(self, command: str, tmp_path: pathlib.Path) -> None:
        result = run(command, "nothing", cwd=tmp_path)
        assert (result.returncode, result.stdout) == (1, "")
        assert_one_sentence(result.stderr.strip("\n"), "nothing", "No such file")

    def test_no_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as raised:
            main([])
        assert raised.value.code == 2
        assert "inspect" in capsys.readouterr().err

    def test_help(self) -> None:
        result = run("--help")
        assert result.returncode == 0
        for command in ("inspect", "selftest", "bench"):
            assert command in result.stdout

    @pytest.mark.parametrize("command", ["inspect", "selftest"])
    def test_terminals_without_unicode(self, command: str, zipped_bundle: pathlib.Path) -> None:
        result = subprocess.run(
            [sys.executable, "-m", "dipole_runtime", command, str(zipped_bundle)],
            capture_output=True,
            env={**environment(), "PYTHONIOENCODING": "ascii"},
            timeout=60,
            check=False,
        )
        assert (result.returncode, result.stderr) == (0, b"")
        assert result.stdout.isascii()

    def test_a_reader_that_stops(self, zipped_bundle: pathlib.Path) -> None:
        """As head does."""
        reader, writer = os.pipe()
        os.close(reader)
        with open(writer, "wb") as output:
            result = subprocess.run(
                [sys.executable, "-u", "-m", "dipole_runtime", "inspect", str(zipped_bundle)],
                stdout=output,
                stderr=subprocess.PIPE,
                env=environment(),
                timeout=60,
                check=False,
            )
        assert result.stderr == b""

    def test_quiet_when_onnx_runtime_complains(self, files: Files, tmp_path: pathlib.Path) -> None:
        """Its own log lines would be a second sentence."""

        def edit(model: onnx.ModelProto) -> None:
            model.graph.node[0].input[0] = "nowhere"

        path = tmp_path / "b.dipole"
        path.write_bytes(archive_bytes(edited(files, POSITIVE, edit)))
        result = run("selftest", path)
        assert result.returncode == 1
        assert len(io.StringIO(result.stderr).readlines()) == 1
        assert_one_sentence(result.stderr.strip("\n"), str(path), POSITIVE)

    def test_quiet_when_onnx_runtime_warns(self, files: Files, tmp_path: pathlib.Path) -> None:
        def edit(model: onnx.ModelProto) -> None:
            """It tells of every weight that no node reads."""
            model.graph.initializer.append(numpy_helper.from_array(np.zeros(3, np.float32), "unused"))

        path = tmp_path / "b.dipole"
        path.write_bytes(archive_bytes(edited(files, POSITIVE, edit)))
        result = run("selftest", path)
        assert (result.returncode, result.stderr) == (0, "")
