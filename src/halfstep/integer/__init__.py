"""Networks of integers alone: a program, its meaning, and how a quantized graph becomes one."""

from halfstep.integer.check import check
from halfstep.integer.interpreter import dequantize_outputs, quantize_inputs, run
from halfstep.integer.program import IntegerProgram
from halfstep.integer.requantization import MODES, Rescale, rescale
from halfstep.integer.value import Value

__all__ = ["MODES", "IntegerProgram", "Rescale", "Value", "check", "dequantize_outputs", "quantize_inputs", "rescale", "run"]
