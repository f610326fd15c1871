"""Normalizations. A batch norm with stored statistics becomes PyTorch's module, which can be folded into a layer before it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstep.onnx_import.call import Call, Known, Translation

BATCH_NORM = "BatchNormalization"
STATE = ("weight", "bias", "running_mean", "running_var")
"""What PyTorch calls the inputs of a batch norm behind the first."""


def _batch_norm(call: Call) -> Tensor:
    call.only_output(1, "statistics of a training step")
    x, epsilon = call.tensor(0), call.real("epsilon", 1e-5)
    if call.flag("training_mode"):
        raise call.refusal("it is switched to training. Export the network in eval mode.")
    weight, bias, mean, variance = (call.tensor(index) for index in range(1, 5))
    if isinstance(call.value(3), Known) and x.ndim > 1:
        return F.batch_norm(x, mean, variance, weight, bias, False, 1 - call.real("momentum", 0.9), epsilon)
    shape = [1, -1, *[1] * (x.ndim - 2)]
    weight, bias, mean, variance = (part.reshape(shape) for part in (weight, bias, mean, variance))
    return (x - mean) * torch.rsqrt(variance + epsilon) * weight + bias


def _instance_norm(call: Call) -> Tensor:
    return F.instance_norm(call.tensor(0), None, None, call.tensor(1), call.tensor(2), True, 0.1, call.real("epsilon", 1e-5))


def _layer_norm(call: Call) -> Tensor | tuple[Tensor, ...]:
    """Also, where they are read, the mean and the inverse of the deviation."""
    x = call.tensor(0)
    axis = call.axis(x.ndim, -1)
    shape = [int(size) for size in x.shape[axis:]]
    weight, bias = (_expanded(part, shape) for part in (call.optional_tensor(1), call.optional_tensor(2)))
    epsilon = call.real("epsilon", 1e-5)
    result = F.layer_norm(x, shape, weight, bias, epsilon)
    if not any(call.operation.outputs[1:]):
        return result
    axes = list(range(axis, x.ndim))
    mean = x.mean(axes, keepdim=True)
    return result, mean, torch.rsqrt(((x - mean) ** 2).mean(axes, keepdim=True) + epsilon)


def _expanded(part: Tensor | None, shape: list[int]) -> Tensor | None:
    return part if part is None or list(part.shape) == shape else part.expand(shape)


def _rms_norm(call: Call) -> Tensor:
    x = call.tensor(0)
    shape = [int(size) for size in x.shape[call.axis(x.ndim, -1) :]]
    return F.rms_norm(x, shape, _expanded(call.tensor(1), shape), call.real("epsilon", 1e-5))


def _group_norm(call: Call) -> Tensor:
    """Since opset 21, and where `fuse` made it, a scale and a bias for each channel; before, for each group."""
    x, groups = call.tensor(0), call.integer("num_groups", 1)
    weight, bias = call.tensor(1), call.tensor(2)
    if call.opset < 21 and not call.flag("is_per_channel"):
        size = int(x.shape[1]) // groups
        weight, bias = weight.repeat_interleave(size), bias.repeat_interleave(size)
    return F.group_norm(x, groups, weight, bias, call.real("epsilon", 1e-5))


def _local_response(call: Call) -> Tensor:
    """ONNX centres an even window a little to the left, as PyTorch does."""
    size, alpha = call.integer("size", 1), call.real("alpha", 1e-4)
    return F.local_response_norm(call.tensor(0), size, alpha, call.real("beta", 0.75), call.real("bias", 1.0))


def _lp_norm(call: Call) -> Tensor:
    """Where all values are 0 the result is 0."""
    x, p = call.tensor(0), call.integer("p", 2)
    axis = call.axis(x.ndim, -1)
    norm = x.abs().sum(axis, keepdim=True) if p == 1 else torch.sqrt((x * x).sum(axis, keepdim=True))
    return x / torch.where(norm == 0, torch.ones_like(norm), norm)


def _mean_variance(call: Call) -> Tensor:
    x, axes = call.tensor(0), call.listed("axes") or [0, 2, 3]
    centred = x - x.mean(axes, keepdim=True)
    return centred / torch.sqrt((centred * centred).mean(axes, keepdim=True) + 1e-9)


NORMALIZATION: dict[str, Translation] = {
    BATCH_NORM: Translation(_batch_norm),
    "InstanceNormalization": Translation(_instance_norm),
    "LayerNormalization": Translation(_layer_norm),
    "RMSNormalization": Translation(_rms_norm),
    "GroupNormalization": Translation(_group_norm),
    "LRN": Translation(_local_response),
    "LpNormalization": Translation(_lp_norm),
    "MeanVarianceNormalization": Translation(_mean_variance),
}
"""Operator -> its translation."""
