"""Runs policy bundles; needs only NumPy and ONNX Runtime."""

from dipole_runtime.bundle import Bundle, read_bundle
from dipole_runtime.errors import GuidedPolicyError
from dipole_runtime.manifest import Manifest
from dipole_runtime.policy import GuidedAction, GuidedPolicy

__all__ = ["Bundle", "GuidedAction", "GuidedPolicy", "GuidedPolicyError", "Manifest", "read_bundle"]
