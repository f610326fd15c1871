"""Quantizers: what forward, which gradient? One file each."""

from halfstep.quantizers.abstract import QUANTIZERS, AbstractQuantizer, in_float, quantizers
from halfstep.quantizers.accumulator import AccumulatorQuantizer
from halfstep.quantizers.binary import BinaryQuantizer
from halfstep.quantizers.calibrated import AbstractCalibratedQuantizer
from halfstep.quantizers.dorefa import DorefaQuantizer
from halfstep.quantizers.learned import AbstractLearnedQuantizer
from halfstep.quantizers.lq_nets import LqNetsQuantizer
from halfstep.quantizers.lsq import LsqQuantizer
from halfstep.quantizers.lsq_plus import LsqPlusQuantizer
from halfstep.quantizers.nice import NiceQuantizer
from halfstep.quantizers.pact import PactQuantizer
from halfstep.quantizers.qil import QilQuantizer
from halfstep.quantizers.sat import SatQuantizer
from halfstep.quantizers.sawb import SawbQuantizer
from halfstep.quantizers.uniform import UniformQuantizer

__all__ = [
    "QUANTIZERS",
    "AbstractCalibratedQuantizer",
    "AbstractLearnedQuantizer",
    "AbstractQuantizer",
    "AccumulatorQuantizer",
    "BinaryQuantizer",
    "DorefaQuantizer",
    "LqNetsQuantizer",
    "LsqPlusQuantizer",
    "LsqQuantizer",
    "NiceQuantizer",
    "PactQuantizer",
    "QilQuantizer",
    "SatQuantizer",
    "SawbQuantizer",
    "UniformQuantizer",
    "in_float",
    "quantizers",
]
