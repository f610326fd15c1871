"""Steps: what is done to the graph? One file each, and the pipeline that runs them."""

from halfstep.steps.absorb_bias import AbsorbBias
from halfstep.steps.abstract import STEPS, AbstractStep, Context
from halfstep.steps.balance_channels import BalanceChannels
from halfstep.steps.calibrate import Calibrate
from halfstep.steps.correct_bias import CorrectBias
from halfstep.steps.equalize import Equalize
from halfstep.steps.finetune import Finetune
from halfstep.steps.fold_batch_norm import FoldBatchNorm
from halfstep.steps.fold_factors import FoldFactors
from halfstep.steps.mix_channels import MixChannels
from halfstep.steps.place_quantizers import PlaceQuantizers
from halfstep.steps.reconstruct import Reconstruct
from halfstep.steps.reestimate_batch_norm import ReestimateBatchNorm
from halfstep.steps.restore_weight_statistics import RestoreWeightStatistics
from halfstep.steps.round import Round
from halfstep.steps.scheme import ActivationScheme, LayerTypes, Override, Scheme, TensorScheme, WeightScheme
from halfstep.steps.shift_channels import ShiftChannels
from halfstep.steps.smooth import Smooth
from halfstep.steps.split_channels import SplitChannels
from halfstep.steps.split_outliers import SplitOutliers

__all__ = [
    "STEPS",
    "AbsorbBias",
    "AbstractStep",
    "ActivationScheme",
    "BalanceChannels",
    "Calibrate",
    "Context",
    "CorrectBias",
    "Equalize",
    "Finetune",
    "FoldBatchNorm",
    "FoldFactors",
    "LayerTypes",
    "MixChannels",
    "Override",
    "PlaceQuantizers",
    "Reconstruct",
    "ReestimateBatchNorm",
    "RestoreWeightStatistics",
    "Round",
    "Scheme",
    "ShiftChannels",
    "Smooth",
    "SplitChannels",
    "SplitOutliers",
    "TensorScheme",
    "WeightScheme",
]
