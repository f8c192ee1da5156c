"""Trains runs with different seeds or hyperparameters at once: their updates run as one on stacked networks."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from typing import Any, TypeVar

from stable_baselines3.common.type_aliases import MaybeCallback

from dipole_sb3.common.random_state import global_generators
from dipole_sb3.learning.offline_algorithm import OfflineAlgorithm
from dipole_sb3.learning.stacked_runs import ManyRuns
from dipole_sb3.networks.network_stack import require_alike

Model = TypeVar("Model", bound=OfflineAlgorithm)

_COMMON = ("batch_size", "n_steps", "random_crop", "acceleration", "precision")
"""Arguments that an update depends on, besides those of the objective."""


class Together:
    """Models whose updates run as one; until :meth:`close` is called, their networks share memory.

    Each model keeps its own random numbers, optimiser and statistics. It learns what it would have learned alone,
    except for rounding: sums in matrix products are computed in another order.

    :param models: see :func:`require_stackable`.
    """

    def __init__(self, models: Sequence[OfflineAlgorithm]) -> None:
        require_stackable(models)
        self.models = list(models)
        self._runs = ManyRuns(models)
        self._updates = models[0].updates_of(self._runs, models[0].batch_size)

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """``model.train(gradient_steps, batch_size)`` of all models at once.

        :param gradient_steps: number of updates of each model.
        :param batch_size: transitions per update.
        """
        for model in self.models:
            model.begin_training()
        self._updates.run(gradient_steps, batch_size)
        for model in self.models:
            model.count_updates(gradient_steps)

    def close(self) -> None:
        """Gives every model's networks their own memory again."""
        self._runs.release()


def learn_together(
    models: Sequence[Model],
    total_timesteps: int | Sequence[int],
    callbacks: Sequence[MaybeCallback] | None = None,
    log_interval: int = 4,
    tb_log_name: str | None = None,
    reset_num_timesteps: bool = True,
    progress_bar: bool = False,
) -> list[Model]:
    """``model.learn(...)`` of several models at once, for example eight seeds in about the time of one on a GPU.

    Their updates on recorded data run as one on stacked networks. Each model draws its own batches and noise, calls
    its own callbacks at each of its timesteps and writes its own log. Except for rounding, the result is the same as
    learning alone. A callback that stops its model does not stop the others. Online phases follow, one model after the
    other.

    :param models: models that :func:`require_stackable` accepts; fastest when all share one data set.
    :param total_timesteps: timesteps of each model, or one number per model, for example when some are further ahead.
    :param callbacks: one per model, as for ``model.learn``.
    :param log_interval: as for ``model.learn``, like ``tb_log_name`` and ``reset_num_timesteps``.
    :param progress_bar: one bar, for the first model's timesteps.
    :return: the models.
    :raises ValueError: the models cannot be trained together, or there is another number of callbacks or of totals.
    """
    require_stackable(models)
    each: list[MaybeCallback] = [None] * len(models) if callbacks is None else list(callbacks)
    totals = [total_timesteps] * len(models) if isinstance(total_timesteps, int) else list(total_timesteps)
    for name, found in (("callbacks", each), ("total_timesteps", totals)):
        if len(found) != len(models):
            raise ValueError(f"{name}: found {len(found)}, expected one for each of {len(models)} models")
    ahead = [model.updates_ahead(total, reset_num_timesteps) for model, total in zip(models, totals, strict=True)]
    models[0].choose_way(max(ahead), reset_num_timesteps)
    models[0].product_type(models[0].batch_size)
    for model in models:
        # So that none decides for itself, and each file holds what the run learned with.
        model.adopt_way(models[0].way_on_cpu_found)
        model.product_type_found = models[0].product_type_found
    with ExitStack() as opened:
        learning = [
            opened.enter_context(
                closing(
                    model.learning(
                        total,
                        callback,
                        log_interval,
                        tb_log_name,
                        reset_num_timesteps,
                        progress_bar and index == 0,
                    )
                )
            )
            for index, (model, total, callback) in enumerate(zip(models, totals, each, strict=True))
        ]
        _run(models, learning)
    return list(models)


def _run(models: Sequence[OfflineAlgorithm], learning: Sequence[Generator[int, None, None]]) -> None:
    """Repeats until no model needs updates: asks each for a number, and makes the smallest of these for all."""
    group: Together | None = None
    wanted = dict.fromkeys(range(len(models)), 0)
    try:
        while True:
            for index in [index for index, count in wanted.items() if count == 0]:
                following = next(learning[index], None)
                if following is None:
                    del wanted[index]
                    continue
                wanted[index] = following
                if group is None:
                    # Online exploration uses the global generators: learning alone, it would find them as they are now.
                    models[index].go_online_with(global_generators())
            if not wanted:
                return
            going = [models[index] for index in wanted]
            if group is None or group.models != going:
                if group is not None:
                    group.close()
                group = Together(going)
            updates = min(wanted.values())
            group.train(updates, going[0].batch_size)
            wanted = {index: count - updates for index, count in wanted.items()}
    finally:
        if group is not None:
            group.close()
        for model in models:
            model.go_online_with(None)


def require_stackable(models: Sequence[OfflineAlgorithm]) -> None:
    """Refuses models that cannot be trained together; they may differ only in the arguments in ``stackable()``.

    :raises ValueError: no models, the same model twice, or a difference in anything else that an update depends on.
    """
    if not models:
        raise ValueError("models: found none, expected at least one")
    if len({id(model) for model in models}) != len(models):
        raise ValueError("models: found the same model twice, expected each once")
    first = models[0]
    free = type(first).stackable()
    names = [name for name in (*_COMMON, *first.update_rule.objective.names()) if name not in free]
    for index, model in enumerate(models):
        if type(model) is not type(first):
            raise _unlike(index, "algorithm", type(model).__name__, type(first).__name__, free)
        for name in names:
            found, expected = getattr(model, name), getattr(first, name)
            if found != expected:
                raise _unlike(index, name, repr(found), repr(expected), free)
    require_alike([model.policy for model in models])


def _unlike(run: int, name: str, found: Any, expected: Any, free: Sequence[str]) -> ValueError:
    return ValueError(
        f"run {run}: {name}: found {found}, expected {expected} as in run 0: runs trained together may differ in "
        f"{', '.join(free)}"
    )
