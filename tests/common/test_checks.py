"""Bad recorded data: each kind ends in one DatasetError of one line that names source, key, found and expected."""

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from dipole_sb3 import DIPOLE, DatasetError, OfflineReplayBuffer
from dipole_sb3.common.checks import BOUND_TOLERANCE, RowError, require_box_actions, require_same_spaces

SOURCE = "drawer.npz"
ROWS = 12

Damage = Callable[[dict[str, Any]], None]


def good_arrays() -> dict[str, Any]:
    random = np.random.default_rng(0)
    return {
        "observations": random.normal(size=(ROWS, 3)).astype(np.float32),
        "actions": random.uniform(-1, 1, (ROWS, 2)).astype(np.float32),
        "rewards": random.normal(size=ROWS).astype(np.float32),
        "next_observations": random.normal(size=(ROWS, 3)).astype(np.float32),
        "terminals": np.zeros(ROWS, np.float32),
        "masks": np.ones(ROWS, np.float32),
    }


def good_dict_arrays() -> dict[str, Any]:
    arrays = good_arrays()
    for key in ("observations", "next_observations"):
        arrays[key] = {"joints": arrays[key], "camera": np.zeros((ROWS, 8, 8, 3), np.uint8)}
    return arrays


def assert_refused(arrays: dict[str, Any], *words: str, **spaces_of_data: spaces.Space[Any]) -> None:
    with pytest.raises(DatasetError) as refusal:
        OfflineReplayBuffer.from_arrays(arrays, source=SOURCE, device="cpu", **spaces_of_data)  # type: ignore[arg-type]
    assert_one_line(refusal.value, SOURCE, *words)


def assert_one_line(error: Exception, *words: str) -> None:
    sentence = str(error)
    assert len(sentence.splitlines()) == 1, sentence
    assert len(sentence) < 300, sentence
    for word in words:
        assert word in sentence, f"{word!r} is not in: {sentence}"


def put(key: str, *index: Any, value: Any) -> Damage:
    """Overwrites one element."""

    def damage(arrays: dict[str, Any]) -> None:
        arrays[key][index] = value

    return damage


def replace(key: str, change: Callable[[Any], Any]) -> Damage:
    def damage(arrays: dict[str, Any]) -> None:
        arrays[key] = change(arrays[key])

    return damage


def drop(*keys: str) -> Damage:
    def damage(arrays: dict[str, Any]) -> None:
        for key in keys:
            del arrays[key]

    return damage


def test_the_data_are_good_before_they_are_damaged() -> None:
    assert OfflineReplayBuffer.from_arrays(good_arrays(), device="cpu").size() == ROWS
    assert OfflineReplayBuffer.from_arrays(good_dict_arrays(), device="cpu").size() == ROWS


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        # values
        (put("observations", 5, 1, value=np.nan), ("observations", "NaN", "row 5", "finite")),
        (put("next_observations", 7, 0, value=np.inf), ("next_observations", "infinity", "row 7", "finite")),
        (put("actions", 0, 0, value=-np.inf), ("actions", "infinity", "row 0", "finite")),
        (put("rewards", 11, value=np.nan), ("rewards", "NaN", "row 11", "finite")),
        (put("terminals", 3, value=np.nan), ("terminals", "NaN", "row 3", "finite")),
        (put("masks", 4, value=0.5), ("masks", "row 4", "0.5", "0 or 1")),
        (put("masks", 4, value=-1), ("masks", "row 4", "-1", "0 or 1")),
        (put("terminals", 2, value=2), ("terminals", "row 2", "2", "0 or 1")),
        (replace("rewards", lambda a: a.astype(np.float64) + 1e300), ("rewards", "infinity", "row 0", "float32")),
        (replace("observations", lambda a: a.astype(np.float64) - 1e300), ("observations", "infinity", "float32")),
        (put("actions", 9, 1, value=1.7), ("actions", "1.7", "[-1, 1]", "action_space=")),
        # keys
        (drop("observations"), ("missing observations", "found actions, masks", "expected observations")),
        (drop("actions"), ("missing actions", "found masks", "expected")),
        (drop("rewards"), ("missing rewards", "expected")),
        (drop("next_observations", "masks"), ("missing next_observations", "could be made", "found actions")),
        (drop("terminals", "masks"), ("missing terminals or masks", "found actions", "expected")),
        (drop("actions", "rewards"), ("missing actions, rewards", "expected")),
        (dict.clear, ("missing observations, actions", "found none", "expected")),
        # shapes and lengths
        (replace("observations", lambda a: a[:-1]), ("observations", "(11, 3)", "expected (12, 3)")),
        (replace("next_observations", lambda a: a[:, :2]), ("next_observations", "(12, 2)", "expected (12, 3)")),
        (replace("observations", lambda a: a[:, 0]), ("observations", "(12,)", "[transitions, ...observation]")),
        (replace("actions", lambda a: a[:5]), ("observations", "(12, 3)", "expected (5, 3)")),
        (replace("actions", lambda a: a[:, 0]), ("actions", "(12,)", "expected [transitions, action]", "continuous")),
        (replace("actions", lambda a: np.arange(ROWS) % 3), ("actions", "(12,)", "continuous (Box)")),
        (replace("rewards", lambda a: a[:4]), ("rewards", "(4,)", "expected (12,)")),
        (replace("rewards", lambda a: np.stack([a, a], 1)), ("rewards", "(12, 2)", "expected (12,)")),
        (replace("terminals", lambda a: np.append(a, 1)), ("terminals", "(13,)", "expected (12,)")),
        (replace("masks", lambda a: a[None]), ("masks", "(1, 12)", "expected (12,)")),
        # empty
        (replace("actions", lambda a: a[:0]), ("actions", "empty", "(0, 2)", "at least one")),
        (replace("observations", lambda a: a[:0]), ("observations", "empty", "(0, 3)", "at least one")),
        (replace("rewards", lambda a: []), ("rewards", "empty", "(0,)", "at least one")),
        (replace("rewards", lambda a: 1.0), ("rewards", "empty", "()", "at least one")),
        (replace("observations", lambda a: {}), ("observations", "empty mapping", "at least one")),
        # types
        (replace("observations", lambda a: a.astype(object)), ("observations", "object", "expected numbers")),
        (replace("actions", lambda a: a.astype(str)), ("actions", "<U", "expected numbers")),
        (replace("rewards", lambda a: [None] * ROWS), ("rewards", "object", "expected numbers")),
        (replace("rewards", lambda a: a.astype(complex)), ("rewards", "complex128", "expected numbers")),
        (replace("actions", lambda a: {"arm": a}), ("actions", "object", "expected numbers")),
        (replace("terminals", lambda a: ["no"] * ROWS), ("terminals", "<U2", "expected numbers")),
        (
            replace("observations", lambda a: [[0.0]] * 5 + [[0.0, 1.0]] * 7),
            ("observations", "different shapes", "one array"),
        ),
        (replace("next_observations", lambda a: a.astype(np.uint8)), ("next_observations", "uint8", "float32")),
        (replace("observations", lambda a: a.astype(np.uint8)), ("next_observations", "float32", "uint8")),
        (replace("observations", lambda a: a[:, 0].astype(np.uint8)), ("next_observations", "float32", "int64")),
        # one array or a mapping of them
        (replace("next_observations", lambda a: {"joints": a}), ("next_observations", "['joints']", "(12, 3)")),
        (replace("observations", lambda a: {"joints": a}), ("next_observations", "one array", "['joints']")),
    ],
)
def test_damaged_arrays_are_refused(damage: Damage, words: tuple[str, ...]) -> None:
    arrays = good_arrays()
    damage(arrays)
    assert_refused(arrays, *words)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda both: both["observations"]["joints"].__setitem__((2, 1), np.nan), ("observations['joints']", "row 2")),
        (lambda both: both["next_observations"].pop("camera"), ("next_observations", "['joints']", "'camera'")),
        (lambda both: both["observations"].pop("joints"), ("next_observations", "['camera']", "'joints'")),
        (
            lambda both: both["observations"].update(camera=np.zeros((ROWS - 1, 8, 8, 3), np.uint8)),
            ("observations['camera']", "(11, 8, 8, 3)", "(12, 8, 8, 3)"),
        ),
        (
            lambda both: both["next_observations"].update(camera=np.zeros((ROWS, 8, 8, 3), np.float32)),
            ("next_observations['camera']", "float32", "uint8"),
        ),
        (
            lambda both: both["observations"].update(joints=np.full((ROWS, 3), "0.1")),
            ("observations['joints']", "<U3", "expected numbers"),
        ),
        (
            lambda both: both["observations"].update(joints=np.zeros((0, 3))),
            ("observations['joints']", "empty", "(0, 3)"),
        ),
    ],
)
def test_damaged_dict_observations_are_refused(damage: Damage, words: tuple[str, ...]) -> None:
    arrays = good_dict_arrays()
    damage(arrays)
    assert_refused(arrays, *words)


@pytest.mark.parametrize(
    ("damage", "observation_space", "words"),
    [
        (
            put("observations", 6, 2, value=9.25),
            spaces.Box(np.float32([-5, -5, -8]), np.float32([5, 5, 8])),
            ("observations", "row 6", "9.25", "[-8, 8]"),
        ),
        (
            put("next_observations", 1, 0, value=-6),
            spaces.Box(np.float32([-4, -5, -5]), np.float32([np.inf, 5, 5])),
            ("next_observations", "row 1", "-6", "[-4, inf]"),
        ),
        (replace("observations", lambda a: a), spaces.Box(-9, 9, (4,)), ("observations", "(12, 3)", "(12, 4)")),
        (
            replace("observations", lambda a: a),
            spaces.Box(0, 255, (3,), np.uint8),
            ("observations", "float32", "uint8"),
        ),
        (
            replace("observations", lambda a: a),
            spaces.Dict(joints=spaces.Box(-9, 9, (3,))),
            ("observations", "one array", "['joints']"),
        ),
        (
            replace("observations", lambda a: {"joints": a}),
            spaces.Box(-9, 9, (3,)),
            ("observations", "['joints']", "(12, 3)"),
        ),
        (
            replace("observations", lambda a: {"arm": a}),
            spaces.Dict(joints=spaces.Box(-9, 9, (3,))),
            ("observations", "['arm']", "['joints']"),
        ),
        (
            replace("observations", lambda a: np.arange(ROWS)),
            spaces.Discrete(5),
            ("observations", "row 5", "5", "[0, 4]"),
        ),
        (
            replace("observations", lambda a: np.full(ROWS, 0.5)),
            spaces.Discrete(5),
            ("observations", "float64", "int64"),
        ),
        (
            replace("observations", lambda a: np.full((ROWS, 2), 3)),
            spaces.MultiDiscrete([4, 3]),
            ("observations", "row 0", "3", "[0, 2]"),
        ),
    ],
)
def test_observations_outside_the_given_space_are_refused(
    damage: Damage, observation_space: spaces.Space[Any], words: tuple[str, ...]
) -> None:
    arrays = good_arrays()
    damage(arrays)
    assert_refused(arrays, *words, observation_space=observation_space)


def test_actions_outside_the_bounds_are_refused_and_rounding_is_not() -> None:
    box = spaces.Box(np.float32([-2, 0]), np.float32([2, 10]))
    arrays = good_arrays()
    arrays["actions"] = np.random.default_rng(0).uniform(box.low, box.high, (ROWS, 2))
    arrays["actions"][4] = 2 + 0.5 * 4 * BOUND_TOLERANCE, 10 + 0.5 * 10 * BOUND_TOLERANCE
    OfflineReplayBuffer.from_arrays(arrays, action_space=box, device="cpu")
    arrays["actions"][8, 1] = 10 + 2 * 10 * BOUND_TOLERANCE
    assert_refused(arrays, "actions", "row 8", "10.02", "[0, 10]", action_space=box)
    arrays["actions"][8, 1] = -2 * 10 * BOUND_TOLERANCE
    assert_refused(arrays, "actions", "row 8", "-0.02", "[0, 10]", action_space=box)
    assert_refused(good_arrays(), "actions", "(12, 2)", "(12, 3)", action_space=spaces.Box(-1, 1, (3,)))


def test_rows_behind_the_first_part_are_checked_and_counted_from_the_start() -> None:
    rows = 65_536 + 7
    arrays: dict[str, Any] = {
        "observations": np.zeros((rows, 1), np.float32),
        "actions": np.zeros((rows, 1), np.float32),
        "rewards": np.zeros(rows, np.float32),
        "next_observations": np.zeros((rows, 1), np.float32),
        "masks": np.ones(rows, np.float32),
    }
    box = spaces.Box(-1, 1, (1,))
    arrays["actions"][rows - 2] = -3
    assert_refused(arrays, "actions row 65541 holds -3, expected a value in [-1, 1]", action_space=box)
    arrays["rewards"][rows - 1] = np.nan
    arrays["actions"][rows - 2] = 0
    assert_refused(arrays, "rewards", "row 65542")


WIDE = spaces.Box(-np.arange(1, 61, dtype=np.float32), np.arange(1, 61, dtype=np.float32))
"""Gymnasium describes it on several lines."""


@pytest.mark.parametrize(
    ("action_space", "words"),
    [
        (spaces.Discrete(4), ("continuous", "Discrete(4)", "Box")),
        (spaces.MultiDiscrete([3, 3]), ("continuous", "MultiDiscrete", "Box")),
        (spaces.MultiBinary(2), ("continuous", "MultiBinary(2)", "Box")),
        (spaces.Dict(arm=spaces.Box(-1, 1, (2,))), ("continuous", "Dict", "Box")),
        (spaces.Tuple([spaces.Box(-1, 1, (2,))]), ("continuous", "Tuple", "Box")),
        (spaces.Box(-np.inf, np.inf, (2,)), ("bounded", "inf", "finite")),
        (spaces.Box(np.float32([-1, 0]), np.float32([1, np.inf])), ("bounded", "inf", "finite")),
        (spaces.Box(np.float32([-1, 0]), np.float32([1, 0])), ("vary", "low < high")),
    ],
)
def test_unsupported_action_spaces_are_refused(action_space: spaces.Space[Any], words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"needs .*actions.*: found") as refusal:
        require_box_actions(action_space)
    assert_one_line(refusal.value, *words)
    with pytest.raises(ValueError, match=r"needs .*actions.*: found"):
        OfflineReplayBuffer.from_arrays(good_arrays(), action_space=action_space, device="cpu")  # type: ignore[arg-type]


def test_supported_action_spaces_pass_unchanged() -> None:
    assert require_box_actions(WIDE) is WIDE


def test_descriptions_of_wide_spaces_stay_on_one_line() -> None:
    assert "\n" in str(WIDE)
    unbounded = spaces.Box(WIDE.low, np.where(WIDE.high > 59, np.inf, WIDE.high))
    with pytest.raises(ValueError, match="bounded") as refusal:
        require_box_actions(unbounded)
    assert len(str(refusal.value).splitlines()) == 1


VECTOR = spaces.Box(-np.inf, np.inf, (3,))
IMAGE = spaces.Box(0, 255, (3, 8, 8), np.uint8)
ACTION = spaces.Box(-1, 1, (2,))


@pytest.mark.parametrize(
    ("found", "expected", "words"),
    [
        ((VECTOR, ACTION), (spaces.Box(-1, 1, (4,)), ACTION), ("observation", "(3,)", "(4,)")),
        ((VECTOR, ACTION), (IMAGE, ACTION), ("observation", "(3,)", "(3, 8, 8)")),
        ((VECTOR, ACTION), (spaces.Box(0, 255, (3,), np.uint8), ACTION), ("observation", "float32", "uint8")),
        ((IMAGE, ACTION), (spaces.Box(0, 1, (3, 8, 8)), ACTION), ("observation", "uint8", "float32")),
        ((VECTOR, ACTION), (spaces.Dict(joints=VECTOR), ACTION), ("observation", "none", "['joints']")),
        ((spaces.Dict(joints=VECTOR), ACTION), (VECTOR, ACTION), ("observation", "['joints']", "none")),
        (
            (spaces.Dict(joints=VECTOR), ACTION),
            (spaces.Dict(joints=VECTOR, camera=IMAGE), ACTION),
            ("observation", "['joints']", "['camera', 'joints']"),
        ),
        (
            (spaces.Dict(joints=VECTOR), ACTION),
            (spaces.Dict(joints=spaces.Box(-1, 1, (7,))), ACTION),
            ("observation['joints']", "(3,)", "(7,)"),
        ),
        ((VECTOR, ACTION), (VECTOR, spaces.Box(-1, 1, (3,))), ("actions", "(2,)", "(3,)")),
        (
            (VECTOR, ACTION),
            (VECTOR, spaces.Box(np.float32([-1, -2]), np.float32([1, 2]))),
            ("actions[1]", "[-1, 1]", "[-2, 2]", "action_space=env.action_space"),
        ),
        ((VECTOR, ACTION), (VECTOR, spaces.Box(-2, 1, (2,))), ("actions[0]", "[-1, 1]", "[-2, 1]")),
        ((VECTOR, ACTION), (VECTOR, spaces.Box(-1, 2, (2,))), ("actions[0]", "[-1, 1]", "[-1, 2]")),
        ((VECTOR, spaces.Box(-1, 1, (60,))), (VECTOR, WIDE), ("actions[1]", "[-1, 1]", "[-2, 2]")),
    ],
)
def test_every_disagreement_with_an_environment_is_refused(
    found: tuple[spaces.Space[Any], ...], expected: tuple[spaces.Space[Any], ...], words: tuple[str, ...]
) -> None:
    with pytest.raises(DatasetError) as refusal:
        require_same_spaces(SOURCE, *found, *expected)
    assert_one_line(refusal.value, SOURCE, *words)


@pytest.mark.parametrize("action_space", [spaces.Discrete(2), spaces.MultiDiscrete([3, 3]), spaces.MultiBinary(2)])
def test_an_environment_without_continuous_actions_is_refused_before_anything_else(
    action_space: spaces.Space[Any],
) -> None:
    with pytest.raises(ValueError, match="continuous"):
        require_same_spaces(SOURCE, VECTOR, ACTION, VECTOR, action_space)


def test_spaces_that_only_look_different_agree() -> None:
    inferred, bounded = VECTOR, spaces.Box(-3, 3, (3,), np.float64)
    require_same_spaces(SOURCE, inferred, ACTION, bounded, spaces.Box(-1, 1, (2,), np.float64))
    require_same_spaces(SOURCE, spaces.Dict(a=VECTOR, b=IMAGE), ACTION, spaces.Dict({"b": IMAGE, "a": bounded}), ACTION)


def test_the_model_refuses_data_that_disagree_with_its_environment() -> None:
    quick = {"policy_kwargs": {"net_arch": [4]}, "device": "cpu"}
    in_the_wrong_units = OfflineReplayBuffer.from_arrays(good_arrays(), source=SOURCE, device="cpu")
    with pytest.raises(DatasetError) as refusal:
        DIPOLE("MlpPolicy", "Pendulum-v1", dataset=in_the_wrong_units, **quick)
    assert_one_line(refusal.value, SOURCE, "actions", "(2,)", "(1,)")
    with pytest.raises(DatasetError) as refusal:
        DIPOLE("MlpPolicy", "Pendulum-v1", dataset={**good_arrays(), "observations": np.zeros((ROWS, 2))}, **quick)
    assert_one_line(refusal.value, "dataset", "observations", "(12, 2)", "(12, 3)")
    with pytest.raises(ValueError, match="continuous"):
        DIPOLE("MlpPolicy", "CartPole-v1", dataset=good_arrays(), **quick)


def test_an_error_with_a_row_comes_out_of_a_process_as_it_was() -> None:
    error = pickle.loads(pickle.dumps(RowError("actions: row ", 3, " is NaN")))
    assert (str(error), str(error.counted_from(10))) == ("actions: row 3 is NaN", "actions: row 13 is NaN")
