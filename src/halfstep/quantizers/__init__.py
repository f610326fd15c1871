"""Quantizers: what forward, which gradient? One file each."""

from halfstep.quantizers.abstract import QUANTIZERS, AbstractQuantizer, in_float, quantizers
from halfstep.quantizers.accumulator import AccumulatorQuantizer
from halfstep.quantizers.uniform import UniformQuantizer

__all__ = ["QUANTIZERS", "AbstractQuantizer", "AccumulatorQuantizer", "UniformQuantizer", "in_float", "quantizers"]
