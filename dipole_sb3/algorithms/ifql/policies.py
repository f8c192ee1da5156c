"""IFQL's policy: a flow, critics with targets and the state value; the critics choose among samples."""

from __future__ import annotations

from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN

from dipole_sb3.learning.flow_policy import FlowPolicy


class IFQLPolicy(FlowPolicy):
    """The flow is a clone of the data; see :class:`~dipole_sb3.learning.flow_policy.FlowPolicy`."""


class MultiInputPolicy(IFQLPolicy):
    """For Dict observations: SB3's CombinedExtractor (a CNN per image, the rest concatenated); see IFQLPolicy."""

    default_features_extractor = CombinedExtractor


class CnnPolicy(IFQLPolicy):
    """For image observations: SB3's NatureCNN; see IFQLPolicy."""

    default_features_extractor = NatureCNN


MlpPolicy = IFQLPolicy
