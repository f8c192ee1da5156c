"""Episodes of OGBench's data sets, made by the scripted oracles that ship inside ``ogbench``.

Same oracles, noise, random actions, stacking probabilities and health check as the generation scripts in OGBench's
repository (``data_gen_scripts/generate_manipspace.py``, ``generate_locomaze.py`` and ``commands.sh``).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

Episode = dict[str, NDArray[Any]]

VISUAL = "visual-"
"""Begins the names of data sets and environments whose observations are pictures."""

STACKING = {
    "single": (0.0, 0.0),
    "double": (0.0, 0.25),
    "triple": (0.05, 0.35),
    "quadruple": (0.1, 0.5),
    "octuple": (0.0, 0.35),
}
"""Range of the probability, drawn once an episode, that the next cube goes on top of another one."""

_CUBE_EPISODES = {"single": 1000, "double": 1000, "triple": 3000, "quadruple": 5000, "octuple": 5000}
_PUZZLE_EPISODES = {"3x3": 1000, "4x4": 1000, "4x5": 3000, "4x6": 5000}
_PLAN_NOISE = 0.1
_PLAN_NOISE_SMOOTHING = 0.5
_MARKOV_NOISE = 0.1
_MARKOV_MIN_NORM = 0.4
_SCENE_CUBE_MAX_STEP = 100
_POINT_NOISE = 0.5
_STITCH_DISTANCE = 4


def made(env_id: str, **kwargs: Any) -> gymnasium.Env[Any, Any]:
    """``gymnasium.make``, without the warning that OGBench's spaces cause in every process that asks for them."""
    warnings.filterwarnings("ignore", message=".*precision lowered by casting.*")
    env: gymnasium.Env[Any, Any] = gymnasium.make(env_id, **kwargs)
    return env


@dataclass(frozen=True)
class Recipe:
    """How one OGBench data set is made.

    :param name: data set without version, for example ``cube-single-play`` or ``visual-cube-single-play``.
    :param env_id: gymnasium id of the goal-conditioned environment.
    :param family: ``cube``, ``scene``, ``puzzle`` or ``pointmaze``.
    :param variant: what comes after the family (``single``, ``3x3``, ``giant``; empty for the scene).
    :param behaviour: ``play``, ``noisy``, ``navigate`` or ``stitch``.
    :param episodes: training episodes of the original set (validation: a tenth).
    :param max_episode_steps: steps of an episode, its last one without a successor.
    :param p_random_action: probability of a uniformly random action, in [0, 1].
    """

    name: str
    env_id: str
    family: str
    variant: str
    behaviour: str
    episodes: int
    max_episode_steps: int
    p_random_action: float = 0.0

    @property
    def is_visual(self) -> bool:
        """Whether observations are pictures, of the same episodes as without ``visual-``."""
        return self.name.startswith(VISUAL)


def _recipe(
    family: str, variant: str, behaviour: str, episodes: int, steps: int, p_random_action: float = 0.0
) -> Recipe:
    scene = f"{family}-{variant}" if variant else family
    return Recipe(f"{scene}-{behaviour}", f"{scene}-v0", family, variant, behaviour, episodes, steps, p_random_action)


def _recipes() -> dict[str, Recipe]:
    recipes = [_recipe("scene", "", "play", 1000, 1001), _recipe("scene", "", "noisy", 1000, 1001, 0.1)]
    for variant, episodes in _CUBE_EPISODES.items():
        recipes.append(_recipe("cube", variant, "play", episodes, 1001))
        recipes.append(_recipe("cube", variant, "noisy", episodes, 1001, 0.1))
    for variant, episodes in _PUZZLE_EPISODES.items():
        recipes.append(_recipe("puzzle", variant, "play", episodes, 1001))
        recipes.append(_recipe("puzzle", variant, "noisy", episodes, 1001, 0.2))
    for variant in ("medium", "large", "giant", "teleport"):
        giant = variant == "giant"
        recipes.append(_recipe("pointmaze", variant, "navigate", 500 if giant else 1000, 2001 if giant else 1001))
        recipes.append(_recipe("pointmaze", variant, "stitch", 5000, 201))
    visual = [
        replace(recipe, name=VISUAL + recipe.name, env_id=VISUAL + recipe.env_id)
        for recipe in recipes
        if recipe.family != "pointmaze" and recipe.variant != "octuple"  # OGBench has no pictures of those
    ]
    return {recipe.name: recipe for recipe in (*recipes, *visual)}


RECIPES = _recipes()
"""Every data set that can be made, by name. OGBench publishes no ``cube-octuple`` set of this size (only one of 100M
steps); its 5000 episodes are ours, as many as for ``cube-quadruple``."""


class Collector:
    """An environment with its oracles; makes any episode of a data set from that episode's seed alone.

    :param recipe: which data set.
    :param max_episode_steps: steps of an episode, ≥ 2.
    """

    def __init__(self, recipe: Recipe, max_episode_steps: int) -> None:
        import ogbench  # noqa: F401 - registers the environments

        self.recipe = recipe
        options: dict[str, Any] = {} if recipe.family == "pointmaze" else {"mode": "data_collection"}
        self.env = made(recipe.env_id, terminate_at_goal=False, max_episode_steps=max_episode_steps, **options)
        self._world: Any = self.env.unwrapped
        # Kept: the manipulation environments make a new space, seeded by the system, every time they are asked for it.
        self._action_space = self.env.action_space
        if recipe.family == "pointmaze":
            self._maze = _Maze(self._world)
        else:
            self._oracles = _manipulation_oracles(self.env, recipe)

    def collect(self, seed: np.random.SeedSequence) -> Episode:
        """One episode, bit-identical for equal seeds whatever was made before.

        :param seed: all randomness of the episode.
        :returns: ``observations`` [T, observation], ``actions`` [T, action] in [−1, 1], ``qpos`` [T, nq] and
            ``qvel`` [T, nv] as float32, ``terminals`` [T] as bool (True in the last row alone) and, for scene and
            puzzle, ``button_states`` [T, buttons] as int64; pictures as observations are [T, 64, 64, 3], uint8. Row t
            holds the state *before* action t.
        """
        words = [int(word) for word in seed.generate_state(6)]
        np.random.seed(words[:4])
        self._action_space.seed(words[4])
        self.env.reset(seed=words[5])  # seeds the environment's own generator; the episode begins with the next reset
        return self._point_episode() if self.recipe.family == "pointmaze" else self._healthy_episode()

    def _healthy_episode(self) -> Episode:
        while True:
            episode = self._manipulation_episode()
            if self.recipe.family != "scene" or cube_stays_visible(episode["qpos"]):
                return _as_stored(episode)

    def _manipulation_episode(self) -> Episode:
        observation, info = self.env.reset()
        stacking = STACKING.get(self.recipe.variant)
        p_stack = 0.5
        if stacking is not None:
            p_stack = 0.0 if stacking == (0.0, 0.0) else np.random.uniform(*stacking)
        noisy = self.recipe.behaviour == "noisy"
        noise = np.random.uniform(0, _MARKOV_NOISE) if noisy else 0.0
        noise_scale = [noise, noise, noise, noise * 3, noise * 10]
        oracle = self._oracles[info["privileged/target_task"]]
        oracle.reset(observation, info)
        rows = _Rows()
        done = False
        while not done:
            if np.random.rand() < self.recipe.p_random_action:
                action = self._action_space.sample()
            else:
                action = np.array(oracle.select_action(observation, info))
                if noisy:
                    action = action + np.random.normal(0, noise_scale, action.shape)
            action = np.clip(action, -1, 1)
            following, _, terminated, truncated, info = self.env.step(action)
            done = terminated or truncated
            if oracle.done:
                task_observation, task_info = self._world.set_new_target(p_stack=p_stack)
                oracle = self._oracles[task_info["privileged/target_task"]]
                oracle.reset(task_observation, task_info)
            rows.append(observation, action, done, info)
            observation = following
        return rows.stacked()

    def _point_episode(self) -> Episode:
        start, goal = self._maze.endpoints(self.recipe.behaviour)
        observation, _ = self.env.reset(options={"task_info": {"init_ij": start, "goal_ij": goal}})
        rows = _Rows()
        done = False
        while not done:
            direction = self._maze.subgoal() - self._world.get_xy()
            direction = direction / (np.linalg.norm(direction) + 1e-6)
            action = np.clip(direction + np.random.normal(0, _POINT_NOISE, direction.shape), -1, 1)
            following, _, terminated, truncated, info = self.env.step(action)
            done = terminated or truncated
            if info["success"] and self.recipe.behaviour == "navigate":
                self._maze.move_goal()
            rows.append(observation, action, done, info)
            observation = following
        return _as_stored(rows.stacked())


class _Rows:
    """Growing columns of one episode."""

    def __init__(self) -> None:
        self._columns: dict[str, list[Any]] = {}

    def append(self, observation: Any, action: Any, done: bool, info: dict[str, Any]) -> None:
        row = {
            "observations": observation,
            "actions": action,
            "terminals": done,
            "qpos": info["prev_qpos"],
            "qvel": info["prev_qvel"],
        }
        if "prev_button_states" in info:
            row["button_states"] = info["prev_button_states"]
        for key, value in row.items():
            self._columns.setdefault(key, []).append(value)

    def stacked(self) -> Episode:
        return {key: np.array(values) for key, values in self._columns.items()}


def _as_stored(episode: Episode) -> Episode:
    dtypes = {"terminals": np.dtype(bool), "button_states": np.dtype(np.int64)}
    if episode["observations"].dtype == np.uint8:
        dtypes["observations"] = np.dtype(np.uint8)
    return {key: values.astype(dtypes.get(key, np.dtype(np.float32))) for key, values in episode.items()}


def cube_stays_visible(qpos: NDArray[np.float64]) -> bool:
    """Whether the scene's cube was never out of sight except inside the drawer; OGBench discards other episodes.

    :param qpos: joint positions [T, nq]; columns 14 to 16 are the cube's x, y, z in metres.
    """
    y, z = qpos[:, 15], qpos[:, 16]
    too_far_right = y >= 0.29
    too_far_left = (y <= -0.3) & ((z < 0.06) | (z > 0.08))
    return not bool((too_far_right | too_far_left).any())


def _manipulation_oracles(env: Any, recipe: Recipe) -> dict[str, Any]:
    """The oracle of each kind of object: open-loop plans for ``play``, closed-loop rules for ``noisy``."""
    if recipe.behaviour == "play":
        return _plan_oracles(env, recipe.family)
    return _markov_oracles(env, recipe.family)


def _plan_oracles(env: Any, family: str) -> dict[str, Any]:
    from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
    from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
    from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
    from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

    options = {"env": env, "noise": _PLAN_NOISE, "noise_smoothing": _PLAN_NOISE_SMOOTHING}
    if family == "puzzle":
        return {"button": ButtonPlanOracle(gripper_always_closed=True, **options)}
    oracles: dict[str, Any] = {"cube": CubePlanOracle(**options)}
    if family == "scene":
        oracles["button"] = ButtonPlanOracle(**options)
        oracles["drawer"] = DrawerPlanOracle(**options)
        oracles["window"] = WindowPlanOracle(**options)
    return oracles


def _markov_oracles(env: Any, family: str) -> dict[str, Any]:
    from ogbench.manipspace.oracles.markov.button_markov import ButtonMarkovOracle
    from ogbench.manipspace.oracles.markov.cube_markov import CubeMarkovOracle
    from ogbench.manipspace.oracles.markov.drawer_markov import DrawerMarkovOracle
    from ogbench.manipspace.oracles.markov.window_markov import WindowMarkovOracle

    options = {"env": env, "min_norm": _MARKOV_MIN_NORM}
    if family == "puzzle":
        return {"button": ButtonMarkovOracle(gripper_always_closed=True, **options)}
    if family == "cube":
        return {"cube": CubeMarkovOracle(**options)}
    return {
        "cube": CubeMarkovOracle(max_step=_SCENE_CUBE_MAX_STEP, **options),
        "button": ButtonMarkovOracle(**options),
        "drawer": DrawerMarkovOracle(**options),
        "window": WindowMarkovOracle(**options),
    }


Cell = tuple[int, int]


class _Maze:
    """Starts, goals and subgoals on the grid of a point maze.

    :param world: OGBench's unwrapped maze environment.
    """

    _NEIGHBOURS = ((-1, 0), (0, -1), (1, 0), (0, 1))

    def __init__(self, world: Any) -> None:
        self._world = world
        self._free = {(int(i), int(j)) for i, j in np.argwhere(world.maze_map == 0)}
        self._cells = sorted(self._free)
        self._junctions = [cell for cell in self._cells if not self._is_hallway(cell)]
        self._subgoals: dict[tuple[Cell, Cell], NDArray[np.float64]] = {}

    def _is_hallway(self, cell: Cell) -> bool:
        """Free on two opposite sides and walled on the other two."""
        i, j = cell
        above, left, below, right = ((i + di, j + dj) in self._free for di, dj in self._NEIGHBOURS)
        return (above and below and not left and not right) or (left and right and not above and not below)

    def endpoints(self, behaviour: str) -> tuple[Cell, Cell]:
        """A random start and a random goal: any junction (navigate), or a cell four steps away (stitch)."""
        start = self._cells[np.random.randint(len(self._cells))]
        if behaviour == "navigate":
            return start, self._junctions[np.random.randint(len(self._junctions))]
        nearby = self._at_distance(start, _STITCH_DISTANCE)
        return start, nearby[np.random.randint(len(nearby))] if nearby else start

    def _at_distance(self, start: Cell, distance: int) -> list[Cell]:
        seen, ring = {start}, [start]
        for _ in range(distance):
            following = []
            for i, j in ring:
                for di, dj in self._NEIGHBOURS:
                    cell = (i + di, j + dj)
                    if cell in self._free and cell not in seen:
                        seen.add(cell)
                        following.append(cell)
            ring = following
        return ring

    def move_goal(self) -> None:
        """A new goal at a random junction, with OGBench's noise on its position."""
        cell = self._junctions[np.random.randint(len(self._junctions))]
        # Not set_goal(cell): for that call OGBench sets the position of the drawn target to NaN.
        self._world.set_goal(goal_xy=self._world.add_noise(self._world.ij_to_xy(cell)))

    def subgoal(self) -> NDArray[np.float64]:
        """Centre (x, y) of the next cell on the shortest way to the goal."""
        here, goal = self._world.get_xy(), self._world.cur_goal_xy
        # The oracle searches the whole grid each time, yet its answer depends on the two cells alone.
        key = (self._world.xy_to_ij(here), self._world.xy_to_ij(goal))
        if key not in self._subgoals:
            self._subgoals[key] = self._world.get_oracle_subgoal(here, goal)[0]
        return self._subgoals[key]
