"""Pictures: real files of the expected size and panels, and the numbers in them."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from PIL import Image
from recordings import record
from sampled_environments import image_env
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from dipole_sb3 import DIPOLE, DIPOLEPolicy, load_dataset, plots
from dipole_sb3.buffers.offline_buffer import OfflineReplayBuffer
from dipole_sb3.common.intervals import mean_interval
from dipole_sb3.evaluation.sweep import SweepResult, SweepRow
from dipole_sb3.plots import acting as plots_acting
from dipole_sb3.plots import curves as plots_learning
from dipole_sb3.plots import drawing
from dipole_sb3.plots import film as plots_film
from dipole_sb3.plots import reacher as plots_reacher
from dipole_sb3.plots import results as plots_results
from dipole_sb3.plots.curves import average

make_reacher = functools.partial(gymnasium.make, "Reacher-v5")
OMEGAS = (-1.0, 0.0, 2.0, 4.0)


@pytest.fixture(scope="module")
def dataset() -> OfflineReplayBuffer:
    return load_dataset("demo/reacher-tqc-10k", device="cpu")


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def model(dataset: OfflineReplayBuffer, run_folder: Path) -> DIPOLE:
    model = DIPOLE("MlpPolicy", dataset=dataset, beta=2.0, seed=0, device="cpu", policy_kwargs={"net_arch": [16]})
    model.set_logger(configure(str(run_folder), ["csv"]))
    model.learn(20)
    return model.learn(20, reset_num_timesteps=False)


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures drawn during a test, beside the files they become."""
    drawn: list[Figure] = []

    @contextmanager
    def kept(path: Path, width: float, height: float) -> Iterator[Figure]:
        with drawing.drawing(path, width, height) as figure:
            drawn.append(figure)
            yield figure

    monkeypatch.setattr(plots_results, "drawing", kept)
    monkeypatch.setattr(plots_acting, "drawing", kept)
    monkeypatch.setattr(plots_learning, "drawing", kept)
    monkeypatch.setattr(plots_film, "drawing", kept)
    monkeypatch.setattr(plots_reacher, "drawing", kept)
    return drawn


def sweep(success: bool) -> SweepResult:
    rates = (0.4, 0.2, 0.6) if success else ()
    rows = tuple(
        SweepRow(
            {"omega": omega, "num_candidates": count}, 5, -20 + omega + count, -22 + omega, -15 + omega + count, *rates
        )
        for count in (1, 4)
        for omega in OMEGAS
    )
    shape = (len(rows), 5)
    return SweepResult(DIPOLEPolicy.knobs, rows, np.zeros(shape), np.ones(shape, bool) if success else None, 0)


def require_picture(path: Path, figure: Figure) -> None:
    """A PNG of the figure's size that shows something, small enough for a repository."""
    width, height = (round(150 * inches) for inches in figure.get_size_inches())
    pixels = imread(path)
    assert abs(pixels.shape[0] - height) <= 1
    assert abs(pixels.shape[1] - width) <= 1
    assert pixels[..., :3].std() > 0.02
    assert path.stat().st_size < 250_000
    assert list(path.parent.glob(".*partial")) == []


def texts(figure: Figure) -> str:
    axes = [axes for axes in figure.axes if axes.get_visible()]
    found = [text.get_text() for each in axes for text in [each.title, *each.texts, each.xaxis.label, each.yaxis.label]]
    return "\n".join([figure.get_suptitle(), *found, *(each.get_title(loc="left") for each in axes)])


def require_no_overlap(figure: Figure) -> None:
    """Titles, labels and notes lie inside the picture and apart from each other."""
    figure.canvas.draw()
    boxes = []
    for axes in figure.axes:
        if axes.get_visible():
            shown = [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]  # type: ignore[attr-defined]
            boxes += [(text.get_text(), text.get_window_extent()) for text in shown if text.get_text()]
    for index, (text, box) in enumerate(boxes):
        assert box.x0 >= 0, text
        assert box.x1 <= figure.bbox.x1, text
        for other, other_box in boxes[index + 1 :]:
            assert not box.overlaps(other_box), (text, other)


@pytest.mark.parametrize("success", [False, True])
def test_omega_sweep_has_a_line_per_number_of_candidates(tmp_path: Path, figures: list[Figure], success: bool) -> None:
    path = tmp_path / "pictures" / "omega_sweep.png"
    plots.plot_sweep(sweep(success), path, data_return=-23.2, agent_return=-7.7, title="Reacher-v5")
    require_picture(path, figures[0])
    require_no_overlap(figures[0])
    assert len(figures[0].axes) == 1 + success
    returns = figures[0].axes[-1]
    curves = [line.get_xydata() for line in returns.lines if len(line.get_xydata()) == len(OMEGAS)]
    drawn = [np.asarray(curve).tolist() for curve in curves]
    for count in (1, 4):
        assert [[omega, -20 + omega + count] for omega in OMEGAS] in drawn
    assert "mean of the recorded data: −23.2" in texts(figures[0])
    assert "recording agent at its end: −7.7" in texts(figures[0])


def test_cells_without_an_interval_are_drawn_too(tmp_path: Path, figures: list[Figure]) -> None:
    rows = tuple(SweepRow({"omega": omega, "num_candidates": 1}, 1, omega, np.nan, np.nan) for omega in OMEGAS)
    plots.plot_sweep(SweepResult(DIPOLEPolicy.knobs, rows, np.zeros((4, 1)), None, 0), tmp_path / "a.png")
    require_picture(tmp_path / "a.png", figures[0])


@pytest.mark.parametrize("omegas", [(-1, 0, 2, 4), (-1, 2)])
def test_paths_have_a_panel_per_omega(
    tmp_path: Path, figures: list[Figure], model: DIPOLE, omegas: tuple[float, ...]
) -> None:
    path = tmp_path / "paths.png"
    plots.plot_paths(model, make_reacher, path, [{"omega": omega, "num_candidates": 1} for omega in omegas])
    require_picture(path, figures[0])
    require_no_overlap(figures[0])
    panels = [axes for axes in figures[0].axes if axes.get_visible()]
    assert len(panels) == len(omegas)
    targets = []
    for axes, omega in zip(panels, omegas, strict=True):
        assert axes.get_title().startswith(f"ω = {omega:g}".replace("-", "−"))
        assert axes.get_aspect() == 1.0
        assert len(axes.collections) == 6
        assert all(len(path.get_segments()) == 50 for path in axes.collections)  # type: ignore[attr-defined]
        targets.append([line.get_xydata().tolist() for line in axes.lines if line.get_marker() == "*"])  # type: ignore[union-attr]
    assert all(each == targets[0] for each in targets)


def test_a_drawn_arm_is_the_simulated_one(model: DIPOLE) -> None:
    (path,) = plots_reacher._paths(model, make_reacher, {"omega": 0.0, "num_candidates": 1}, [3], deterministic=True)
    env = make_reacher()
    observation, _ = env.reset(seed=3)
    total, tips = 0.0, [observation[8:10] + observation[4:6]]
    for _ in range(50):
        action, _ = model.predict(observation, deterministic=True, omega=0.0, num_candidates=1)
        observation, reward, _, _, info = env.step(action)
        total += float(reward)
        tips.append(observation[8:10] + observation[4:6])
    assert path.distance == pytest.approx(-100 * info["reward_dist"], abs=1e-6)
    assert path.total_reward == pytest.approx(total)
    np.testing.assert_allclose(path.points, 100 * np.array(tips), atol=1e-6)
    # The upper link is 10 cm long, the lower one 11 cm.
    np.testing.assert_allclose(np.linalg.norm(path.elbows, axis=1), 10, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(path.points - path.elbows, axis=1), 11, atol=1e-6)


def test_the_arm_moves_side_by_side_to_the_same_targets(tmp_path: Path, model: DIPOLE) -> None:
    settings = [{"omega": omega, "num_candidates": 1} for omega in (-1.0, 4.0)]
    plots.write_arm_animation(model, make_reacher, tmp_path / "arm.gif", settings, near=8.0, seeds=[3, 4])
    film = Image.open(tmp_path / "arm.gif")
    assert film.info["loop"] == 0
    held = plots_reacher._HELD
    arrived = []
    for seed in range(2):
        # The first frame of an episode; its last one is held.
        shown = []
        for frame in (seed * 51, seed * 51 + 50):
            film.seek(frame)
            shown.append(np.asarray(film.convert("RGB")).astype(int))
        left, right = shown[0][30:, :240], shown[0][30:, 246:]
        assert np.abs(left - right).max() < 60, "the same start and target"
        assert np.abs(shown[1][30:, :240] - shown[1][30:, 246:]).max() > 150, "another end"
        arrived.append(shown[1])
    assert film.n_frames == 102, "frames that are held are not written again"  # type: ignore[attr-defined]
    assert held * 40 <= film.info["duration"]


def test_default_targets_lie_all_around() -> None:
    env = make_reacher()
    angles = []
    for seed in plots_reacher.spread_seeds(make_reacher, 5):
        env.reset(seed=seed)
        x, y = env.unwrapped.get_body_com("target")[:2]  # type: ignore[attr-defined]
        angles.append(np.arctan2(y, x) % (2 * np.pi))
    assert [int(angle / (2 * np.pi) * 5) for angle in angles] == [0, 1, 2, 3, 4]


def test_paths_need_a_fingertip(tmp_path: Path, model: DIPOLE) -> None:
    with pytest.raises(ValueError, match="Pendulum-v1 has no body 'target'; expected Gymnasium's Reacher"):
        plots.plot_paths(model, functools.partial(gymnasium.make, "Pendulum-v1"), tmp_path / "a.png", [{"omega": 0}])
    assert list(tmp_path.iterdir()) == []


def test_actions_show_both_policies_and_the_guided_one(
    tmp_path: Path, figures: list[Figure], model: DIPOLE, dataset: OfflineReplayBuffer
) -> None:
    path = tmp_path / "actions.png"
    negative, positive, guided = ({"omega": omega, "num_candidates": 1} for omega in (-1.0, 0.0, 2.0))
    observation = plots.choose_observation(model, dataset, worse=negative, better=positive, among=20, samples=8)
    assert (dataset.observations[:, 0] == observation).all(axis=1).any()  # type: ignore[call-overload]
    plots.plot_actions(model, observation, path, [negative, positive, guided], samples=50)
    require_picture(path, figures[0])
    require_no_overlap(figures[0])
    for name in ("ω = −1 (π⁻)", "ω = 0 (π⁺)", "ω = 2"):
        assert name in texts(figures[0])
    clouds = [axes.collections[-1].get_offsets() for axes in figures[0].axes[:3]]
    for omega, cloud in zip((-1.0, 0.0, 2.0), clouds, strict=True):
        torch.manual_seed(0)
        actions, _ = model.predict(np.stack([observation] * 50), omega=omega, num_candidates=1)
        np.testing.assert_allclose(np.asarray(cloud), actions, atol=1e-6)  # Reacher's actions are in [−1, 1].


def test_actions_of_one_dimension_span_no_plane(tmp_path: Path) -> None:
    arrays = {
        "observations": np.zeros((4, 2), np.float32),
        "next_observations": np.zeros((4, 2), np.float32),
        "actions": np.zeros((4, 1), np.float32),
        "rewards": np.zeros(4, np.float32),
        "terminals": np.zeros(4, np.float32),
    }
    model = DIPOLE("MlpPolicy", dataset=arrays, device="cpu", policy_kwargs={"net_arch": [8]})
    with pytest.raises(ValueError, match="1 action dimension, expected at least 2"):
        plots.plot_actions(model, np.zeros(2, np.float32), tmp_path / "a.png", [{"omega": 1.0}])


def test_advantages_of_images_however_their_channels_lie() -> None:
    arrays = record(image_env(36, 40, 3), 12)
    kwargs = {"net_arch": [8], "features_extractor_kwargs": {"features_dim": 8}}
    model = DIPOLE("CnnPolicy", dataset=arrays, device="cpu", policy_kwargs=kwargs)
    last = OfflineReplayBuffer.from_arrays(arrays)
    first = plots.recorded_advantages(model, last.with_channels_first())
    assert first.shape == (12,)
    np.testing.assert_array_equal(plots.recorded_advantages(model, last), first)


def test_weights_tell_where_they_saturate(
    tmp_path: Path, figures: list[Figure], model: DIPOLE, dataset: OfflineReplayBuffer
) -> None:
    path = tmp_path / "weights.png"
    advantages = plots.recorded_advantages(model, dataset)
    gentle = plots.plot_weights(model, dataset, path)
    require_picture(path, figures[0])
    require_no_overlap(figures[0])
    model.beta = 200.0
    try:
        steep = plots.plot_weights(model, dataset, path)
    finally:
        model.beta = 2.0
    for beta, shares in ((2.0, gentle), (200.0, steep)):
        # σ(x) < 0.05 means x < −ln 19.
        assert shares[0] == pytest.approx(np.mean(beta * advantages < -np.log(19)), abs=1e-3)
        assert shares[1] == pytest.approx(np.mean(beta * advantages > np.log(19)), abs=1e-3)
    assert sum(steep) > sum(gentle)
    assert f"{100 * steep[0]:.1f} % of the data train π⁻ alone" in texts(figures[1])


@pytest.mark.parametrize("normalised", [False, True])
def test_advantages_are_those_of_training(dataset: OfflineReplayBuffer, normalised: bool) -> None:
    env: Any = VecNormalize(DummyVecEnv([make_reacher])) if normalised else make_reacher()
    model = DIPOLE("MlpPolicy", env, dataset=dataset, seed=0, device="cpu", policy_kwargs={"net_arch": [16]}).learn(3)
    observations = dataset.observations[[0, -1], 0]  # type: ignore[index]
    statistics = model.get_vec_normalize_env()
    if statistics is not None:
        observations = statistics.normalize_obs(observations)
    with torch.no_grad():
        tensors, _ = model.policy.obs_to_tensor(observations)
        q = model.policy.critic_target.head(
            model.policy.critic_target.features(tensors), torch.as_tensor(dataset.actions[[0, -1], 0])
        )
        expected = torch.minimum(q[0], q[1]) - model.policy.value.head(model.policy.value.features(tensors))
    advantages = plots.recorded_advantages(model, dataset, limit=101)
    assert advantages.shape == (101,)
    np.testing.assert_allclose(advantages[[0, -1]], expected.numpy(), atol=1e-5)


def test_curves_come_from_the_progress_file(
    tmp_path: Path, figures: list[Figure], model: DIPOLE, run_folder: Path
) -> None:
    plots.plot_curves(run_folder / "progress.csv", tmp_path / "curves.png")
    require_picture(tmp_path / "curves.png", figures[0])
    require_no_overlap(figures[0])
    panels = [axes for axes in figures[0].axes if axes.get_visible()]
    assert len(panels) == 5  # No evaluation in this run.
    assert [line.get_xdata().tolist() for line in panels[0].lines] == [[20, 40], [20, 40]]  # type: ignore[union-attr]


def write_progress(path: Path, steps: list[int], losses: list[float], returns: list[float]) -> Path:
    lines = ["time/total_timesteps,train/positive_loss,eval/mean_reward"]
    lines += [f"{step},{loss},{value}" for step, loss, value in zip(steps, losses, returns, strict=True)]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_hand_over_is_marked(tmp_path: Path, figures: list[Figure]) -> None:
    file = write_progress(tmp_path / "a.csv", [100, 200, 300], [3, 2, 1], [-9, -8, -5])
    for offline_steps in (200, 300, None):
        plots.plot_curves(file, tmp_path / "curves.png", offline_steps=offline_steps)
    marked, *others = figures
    require_no_overlap(marked)
    for axes in (axes for axes in marked.axes if axes.get_visible()):
        assert axes.lines[-1].get_xdata() == [200, 200]
        assert "online →" in [text.get_text() for text in axes.texts]
    # At its end, or without being told, there is nothing to mark.
    assert [len(axes.lines) for figure in others for axes in figure.axes if axes.get_visible()] == [1, 1, 1, 1]


def test_several_runs_are_drawn_as_mean_and_interval(tmp_path: Path, figures: list[Figure]) -> None:
    losses = [[3.0, 2.0, 1.0], [4.0, 2.5, 2.0], [5.0, 3.0, 1.5]]
    files = [write_progress(tmp_path / f"{n}.csv", [100, 200, 300], loss, loss) for n, loss in enumerate(losses)]
    plots.plot_curves(files, tmp_path / "curves.png", offline_steps=200)
    require_picture(tmp_path / "curves.png", figures[0])
    panel = figures[0].axes[0]
    assert panel.lines[0].get_ydata() == pytest.approx([4.0, 2.5, 1.5])
    intervals = [mean_interval([run[point] for run in losses]) for point in range(3)]
    (band,) = panel.collections
    heights = {(x, round(y, 9)) for x, y in band.get_paths()[0].vertices}  # type: ignore[union-attr]
    for step, interval in zip((100.0, 200.0, 300.0), intervals, strict=True):
        assert {(step, round(interval.low, 9)), (step, round(interval.high, 9))} <= heights
    assert "mean of 3 runs, 95 % interval" in figures[0].get_supxlabel()


def test_runs_of_different_timesteps_meet_where_all_have_values() -> None:
    course = average([([10, 30], [0.0, 2.0]), ([20, 40], [10.0, 14.0])])
    assert course.steps.tolist() == [20, 30]
    assert course.mean.tolist() == [5.5, 7.0]
    assert average([([10, 30], [0.0, 2.0])]).low is None


def test_runs_without_a_common_timestep_have_no_curves_yet(tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.csv" for name in "ab"]
    for file, timestep in zip(files, (200, 260), strict=True):
        file.write_text(f"time/total_timesteps,train/q_mean\n{timestep},1.0\n")
    with pytest.raises(ValueError, match="the runs have no timestep in common yet"):
        plots.plot_curves(files, tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_curves_need_training_statistics(tmp_path: Path) -> None:
    (tmp_path / "progress.csv").write_text("time/total_timesteps,rollout/ep_rew_mean\n10,1.0\n")
    with pytest.raises(ValueError, match=r"progress\.csv: no training statistics; found \['rollout/ep_rew_mean'"):
        plots.plot_curves(tmp_path / "progress.csv", tmp_path / "curves.png")


def test_without_matplotlib_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'dipole-sb3\[plots\]'"):
        plots.plot_sweep(sweep(False), tmp_path / "a.png")


def test_a_failed_drawing_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(KeyError), drawing.drawing(tmp_path / "a.png", 2, 2):
        raise KeyError
    assert list(tmp_path.iterdir()) == []


class TestFilm:
    FRAMES = np.stack([np.full((8, 32, 32, 3), shade, np.uint8) for shade in (60, 200)])

    def test_animation_shows_panels_side_by_side_for_as_long_as_the_frames_last(self, tmp_path: Path) -> None:
        frames = self.FRAMES.copy()
        frames[1, 5:, :16] = 120
        frames[0, :, 20:22, 20:22] = (180, 30, 30)  # a small thing of a strong colour, which must keep it
        plots.write_animation(frames, ["ω = −1", "ω = 1: done"], 0.1, tmp_path / "film.gif")
        with Image.open(tmp_path / "film.gif") as film:
            assert (film.width, film.info["loop"]) == (2 * 32 + 6, 0)
            total, last = 0.0, None
            for index in range(film.n_frames):
                film.seek(index)
                total, last = total + film.info["duration"], np.asarray(film.convert("RGB"))
        assert total == pytest.approx(800)
        assert last is not None
        top = film.height - 32
        assert abs(int(last[top + 4, 10, 0]) - 60) < 12
        assert abs(int(last[top + 4, 50, 0]) - 120) < 12
        assert abs(int(last[top + 28, 50, 0]) - 200) < 12
        assert np.abs(last[top + 20, 20].astype(int) - (180, 30, 30)).max() < 12

    def test_strip_has_a_row_for_each_setting_and_the_first_and_last_frame(
        self, tmp_path: Path, figures: list[Figure]
    ) -> None:
        plots.plot_film_strip(self.FRAMES, ["ω = −1", "ω = 1"], 0.1 * np.arange(8), tmp_path / "film.png")
        (figure,) = figures
        titles = [axes.get_title() for axes in figure.axes[:6]]
        assert (titles[0], titles[-1]) == ("0.0 s", "0.7 s")
        assert [axes.get_ylabel() for axes in figure.axes[::6]] == ["ω = −1", "ω = 1"]
        assert imread(tmp_path / "film.png").shape[1] > 1000
