"""What a runtime makes of a quantized ONNX file: which operators run as integers there, which do not, and why."""

from __future__ import annotations

from halfstep.runtimes.check import RUNTIMES, OnnxCheck, OperatorCheck, check_onnx

__all__ = ["RUNTIMES", "OnnxCheck", "OperatorCheck", "check_onnx"]
