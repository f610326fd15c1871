"""Range estimators: which scale? One file each."""

from halfstep.ranges.abstract import RANGES, AbstractRange, Range
from halfstep.ranges.aciq import AnalyticClipping
from halfstep.ranges.distribution import Distribution
from halfstep.ranges.entropy import Entropy
from halfstep.ranges.histogram import Histogram
from halfstep.ranges.kl import KullbackLeibler
from halfstep.ranges.mean_absolute_error import MeanAbsoluteError
from halfstep.ranges.mean_std import MeanStd
from halfstep.ranges.min_max import MinMax
from halfstep.ranges.mse import MeanSquaredError
from halfstep.ranges.output_mse import OutputMeanSquaredError
from halfstep.ranges.percentile import Percentile

__all__ = [
    "RANGES",
    "AbstractRange",
    "AnalyticClipping",
    "Distribution",
    "Entropy",
    "Histogram",
    "KullbackLeibler",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "MeanStd",
    "MinMax",
    "OutputMeanSquaredError",
    "Percentile",
    "Range",
]
