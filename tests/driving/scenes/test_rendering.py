"""The cameras show where the road and the others are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import shapely

from dipole_sb3.driving.scene import CAMERAS
from dipole_sb3.driving.scenes.rendering import HEIGHT, WIDTH, View, camera, render

GRASS, ROAD, REAR, LINE = (88, 128, 72), (92, 92, 98), (225, 30, 30), (238, 238, 232)
Picture = npt.NDArray[np.uint8]


def view(*boxes: tuple[float, float, float], width: float = 2.0, lines: bool = False) -> View:
    """A straight road 8 m wide, with cars on it."""
    line = np.array([[-10.0, 1.9], [100.0, 1.9]])
    return View(
        roads=[shapely.box(-20, -4, 120, 4)],
        lines=[line] if lines else [],
        boxes=np.array(boxes).reshape(-1, 3),
        sizes=np.repeat([[4.5, width, 1.6]], len(boxes), axis=0),
        types=["vehicle"] * len(boxes),
    )


def near(picture: Picture, colour: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    return np.asarray(np.abs(picture.astype(int) - colour).max(axis=-1) < 30)


def pixel(name: str, x: float, y: float, z: float) -> tuple[float, float]:
    """Column and row at which a point is seen, by the pinhole equation."""
    eye = camera(name)
    right, down, ahead = eye.rotation.T @ (np.array([x, y, z]) - eye.position)
    assert ahead > 0
    focal = eye.intrinsics[0, 0]
    return WIDTH / 2 + focal * right / ahead, HEIGHT / 2 + focal * down / ahead


@pytest.mark.parametrize("name", CAMERAS)
def test_axes_are_those_of_a_camera(name: str) -> None:
    eye = camera(name)
    np.testing.assert_allclose(eye.rotation.T @ eye.rotation, np.eye(3), atol=1e-12)
    assert np.linalg.det(eye.rotation) == pytest.approx(1)
    assert eye.rotation[2, 1] < -0.9, "its y axis points down"
    assert np.sign(np.round(eye.rotation[1, 2], 6)) == {"CAM_L0": 1, "CAM_F0": 0, "CAM_R0": -1}[name]


def test_road_edges_are_where_they_are_seen() -> None:
    front = render(view())["CAM_F0"]
    for x in (6.0, 10.0, 20.0):
        row = int(pixel("CAM_F0", x, 0, 0)[1])
        left, right = (pixel("CAM_F0", x, y, 0)[0] for y in (4, -4))
        for column, colour in ((left - 2, GRASS), (left + 2, ROAD), (right - 2, ROAD), (right + 2, GRASS)):
            if 0 <= column < WIDTH:
                assert near(front[row, int(column)], colour), (x, column)


def test_line_on_the_left() -> None:
    front = render(view(lines=True))["CAM_F0"]
    column, row = pixel("CAM_F0", 7.0, 1.9, 0)
    assert near(front[int(row), int(column) - 1 : int(column) + 2], LINE).any()
    assert not near(front[:, WIDTH // 2 + 4 :], LINE).any()


@pytest.mark.parametrize(("x", "y"), [(15.0, 0.0), (30.0, 3.0), (12.0, -3.0)])
def test_a_car_is_where_it_is_seen(x: float, y: float) -> None:
    rear = near(render(view((x, y, 0.0)))["CAM_F0"], REAR)
    rows, columns = np.nonzero(rear)
    expected = pixel("CAM_F0", x - 2.25, y, 0.8)
    assert columns.mean() + 0.5 == pytest.approx(expected[0], abs=1.0)
    assert rows.mean() + 0.5 == pytest.approx(expected[1], abs=1.0)


def test_a_nearer_car_is_larger_and_hides_the_farther() -> None:
    def size(*boxes: tuple[float, float, float]) -> int:
        return int(near(render(view(*boxes))["CAM_F0"], REAR).sum())

    assert size((12, 0, 0)) > 2 * size((20, 0, 0)) > 0
    # The farther one shows its bright front, which would cover the nearer one's rear.
    assert size((12, 0, 0), (20, 0, np.pi)) == size((20, 0, np.pi), (12, 0, 0)) == size((12, 0, 0))


def test_heading_shows() -> None:
    away, towards = (render(view((15.0, 0.0, yaw)))["CAM_F0"] for yaw in (0.0, np.pi))
    assert near(away, REAR).any()
    assert not near(towards, REAR).any()


def test_cars_at_the_sides_are_seen_at_the_sides() -> None:
    empty, left, right = (render(view(*boxes)) for boxes in ([], [(8.0, 9.0, 0.0)], [(8.0, -9.0, 0.0)]))
    changed = {name: [(one[name] != empty[name]).any() for one in (left, right)] for name in CAMERAS}
    assert changed["CAM_L0"] == [True, False]
    assert changed["CAM_R0"] == [False, True]


def test_a_car_around_the_camera_does_not_break_it() -> None:
    for picture in render(view((1.0, 0.5, 0.3), (0.0, 0.0, 0.0))).values():
        assert picture.shape == (HEIGHT, WIDTH, 3)
