"""Steps: what is done to the graph? One file each, and the pipeline that runs them."""

from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.calibrate import Calibrate
from halfstep.steps.fold_batch_norm import FoldBatchNorm
from halfstep.steps.place_quantizers import PlaceQuantizers
from halfstep.steps.round import Round
from halfstep.steps.scheme import ActivationScheme, LayerTypes, Override, Scheme, TensorScheme, WeightScheme

__all__ = [
    "STEPS",
    "AbstractStep",
    "ActivationScheme",
    "Calibrate",
    "Context",
    "FoldBatchNorm",
    "LayerTypes",
    "Override",
    "PlaceQuantizers",
    "Round",
    "Scheme",
    "TensorScheme",
    "WeightScheme",
]
