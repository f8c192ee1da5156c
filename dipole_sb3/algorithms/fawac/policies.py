"""FAWAC's policy: a flow, critics with targets and the state value; a sample of the flow acts."""

from __future__ import annotations

from stable_baselines3.common.torch_layers import CombinedExtractor, NatureCNN

from dipole_sb3.learning.flow_policy import FlowPolicy


class FAWACPolicy(FlowPolicy):
    """The flow is drawn to what was better than expected; see :class:`~dipole_sb3.learning.flow_policy.FlowPolicy`."""


class MultiInputPolicy(FAWACPolicy):
    """For Dict observations: SB3's CombinedExtractor (a CNN per image, the rest concatenated); see FAWACPolicy."""

    default_features_extractor = CombinedExtractor


class CnnPolicy(FAWACPolicy):
    """For image observations: SB3's NatureCNN; see FAWACPolicy."""

    default_features_extractor = NatureCNN


MlpPolicy = FAWACPolicy
