"""Runs a guided policy's bundle with NumPy and ONNX Runtime alone."""

from dipole_runtime.errors import GuidedPolicyError

__all__ = ["GuidedPolicyError"]
