"""Range estimators: which scale? One file each."""

from halfstep.ranges.abstract import RANGES, AbstractRange, Range
from halfstep.ranges.aciq import AnalyticClipping
from halfstep.ranges.distribution import Distribution
from halfstep.ranges.histogram import Histogram
from halfstep.ranges.min_max import MinMax
from halfstep.ranges.mse import MeanSquaredError
from halfstep.ranges.output_mse import OutputMeanSquaredError
from halfstep.ranges.percentile import Percentile

__all__ = [
    "RANGES",
    "AbstractRange",
    "AnalyticClipping",
    "Distribution",
    "Histogram",
    "MeanSquaredError",
    "MinMax",
    "OutputMeanSquaredError",
    "Percentile",
    "Range",
]
