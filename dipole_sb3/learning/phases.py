"""The two phases of learning, on one count of timesteps: updates on recorded data, then environment steps."""

from __future__ import annotations

from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit


def end_of_offline_phase(
    offline_steps: int | None, earlier_end: int, start: int, total_timesteps: int, has_dataset: bool, has_env: bool
) -> int:
    """The timestep at which environment steps begin.

    :param offline_steps: the model's argument of that name.
    :param earlier_end: what this function returned for the previous ``learn()``; 0 for the first.
    :param start: timestep at which this ``learn()`` begins.
    :param total_timesteps: timesteps of this ``learn()``.
    :return: ``offline_steps`` if it is given. Else, with a data set: the end of this call if it is the first or there
        is no environment, otherwise ``earlier_end``. Without a data set there are no more offline timesteps.
    """
    if offline_steps is not None:
        return offline_steps
    if not has_dataset:
        return min(earlier_end, start)
    if start == 0:
        return total_timesteps
    return earlier_end if has_env else max(earlier_end, start + total_timesteps)


def planned_updates(
    offline_end: int, start: int, end: int, train_freq: TrainFreq, gradient_steps: int, n_envs: int
) -> int:
    """How many updates a ``learn()`` will make; what is trained once per episode counts nothing, for nobody knows.

    :param start: timestep at which it begins.
    :param end: timestep at which it ends.
    """
    offline = max(0, min(offline_end, end) - start)
    online = max(0, end - max(offline_end, start))
    if gradient_steps < 0:
        return offline + online
    if train_freq.unit == TrainFrequencyUnit.EPISODE:
        return offline
    return offline + gradient_steps * (online // (train_freq.frequency * n_envs))


def require_data(offline_end: int, start: int, has_recorded_data: bool, offline_ratio: object) -> None:
    """Refuses an offline phase, or a share of recorded data, without recorded data.

    :raises ValueError: there are no recorded data.
    """
    if offline_end > start and not has_recorded_data:
        raise ValueError(
            "learn() has no data to learn offline from: pass dataset= to the constructor or to load(), "
            "or call set_dataset()"
        )
    if offline_ratio is not None and not has_recorded_data:
        raise ValueError(
            f"offline_ratio={offline_ratio!r} needs recorded data: found none; pass dataset= or leave it out"
        )


def require_environment(offline_end: int, has_env: bool, train_freq: TrainFreq, n_envs: int) -> None:
    """Refuses to go online without an environment, or with several where ``train_freq`` counts episodes.

    :raises ValueError: the message says what is missing.
    """
    if not has_env:
        raise ValueError(
            f"learn() would go on online after timestep {offline_end} and has no environment: pass env=, or "
            "dataset= (and a larger offline_steps=) to learn from recorded data"
        )
    if train_freq.unit == TrainFrequencyUnit.EPISODE and n_envs > 1:
        raise ValueError(
            f"train_freq=({train_freq.frequency}, 'episode') with {n_envs} environments: expected one "
            "environment, or train_freq in steps"
        )
