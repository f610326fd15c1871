"""Range estimators: which scale? One file each."""

from halfstep.ranges.abstract import RANGES, AbstractRange, Range
from halfstep.ranges.distribution import Distribution
from halfstep.ranges.histogram import Histogram
from halfstep.ranges.min_max import MinMax
from halfstep.ranges.mse import MeanSquaredError
from halfstep.ranges.percentile import Percentile

__all__ = ["RANGES", "AbstractRange", "Distribution", "Histogram", "MeanSquaredError", "MinMax", "Percentile", "Range"]
