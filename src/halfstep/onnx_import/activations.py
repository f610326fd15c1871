"""Activation functions. The constants of a form PyTorch has an operator for give that operator; others are written out."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from halfstep.onnx_import.call import Call, Translation
from halfstep.onnx_import.elementwise import converted, unary

_SELU = (1.67326319217681884765625, 1.05070102214813232421875)  # alpha and gamma as ONNX and PyTorch have them, in float32
_SAME = 1e-6


def _leaky_relu(call: Call) -> Tensor:
    return F.leaky_relu(call.tensor(0), call.real("alpha", 0.01))


def _prelu(call: Call) -> Tensor:
    """A slope for each channel as PyTorch has it; any other shape written out."""
    x, slope = call.tensor(0), call.tensor(1)
    channels = x.shape[1] if x.ndim > 1 else None
    if slope.numel() == 1 and x.is_floating_point():
        return F.prelu(x, slope.reshape(1))
    if slope.numel() == channels and slope.ndim >= x.ndim - 1 and slope.shape[1 - x.ndim] == channels:
        return F.prelu(x, slope.reshape(-1))
    return torch.where(x < 0, x * slope, x)


def _elu(call: Call) -> Tensor:
    return F.elu(call.tensor(0), call.real("alpha", 1.0))


def _celu(call: Call) -> Tensor:
    return F.celu(call.tensor(0), call.real("alpha", 1.0))


def _selu(call: Call) -> Tensor:
    x, alpha, gamma = call.tensor(0), call.real("alpha", _SELU[0]), call.real("gamma", _SELU[1])
    if math.isclose(alpha, _SELU[0], rel_tol=_SAME) and math.isclose(gamma, _SELU[1], rel_tol=_SAME):
        return F.selu(x)
    return F.elu(x, alpha) * gamma


def _hard_sigmoid(call: Call) -> Tensor:
    x, alpha, beta = call.tensor(0), call.real("alpha", 0.2), call.real("beta", 0.5)
    if math.isclose(alpha, 1 / 6, rel_tol=_SAME) and beta == 0.5:
        return F.hardsigmoid(x)
    return torch.clamp(x * alpha + beta, 0.0, 1.0)


def _gelu(call: Call) -> Tensor:
    return F.gelu(call.tensor(0), approximate=call.text("approximate", "none"))


def _thresholded_relu(call: Call) -> Tensor:
    return F.threshold(call.tensor(0), call.real("alpha", 1.0), 0.0)


def _shrink(call: Call) -> Tensor:
    x, bias, limit = call.tensor(0), call.real("bias", 0.0), call.real("lambd", 0.5)
    moved = torch.where(x < -limit, x + bias, torch.where(x > limit, x - bias, torch.zeros_like(x)))
    return converted(moved, x.dtype)


def _swish(call: Call) -> Tensor:
    x, alpha = call.tensor(0), call.real("alpha", 1.0)
    return F.silu(x) if alpha == 1 else x * torch.sigmoid(x * alpha)


def _softplus(call: Call) -> Tensor:
    return F.softplus(call.tensor(0))


def _dropout(call: Call) -> tuple[Tensor, Tensor] | Tensor:
    """The identity: a network that is quantized is not being trained."""
    x = call.tensor(0)
    if call.has(2) and call.number(2) and not (call.has(1) and call.number(1) == 0):
        raise call.refusal("it is switched to training. Export the network in eval mode.")
    return (x, torch.ones_like(x, dtype=torch.bool)) if len(call.operation.outputs) > 1 else x


def _softmax(call: Call, is_logarithm: bool = False) -> Tensor:
    """Up to opset 12 over all axes from ``axis`` on together, since 13 over ``axis`` alone."""
    x, function = call.tensor(0), F.log_softmax if is_logarithm else F.softmax
    axis = call.axis(x.ndim, -1 if call.opset >= 13 else 1)
    if call.opset >= 13 or axis == x.ndim - 1:
        return function(x, axis)
    return function(x.flatten(axis), -1).reshape(x.shape)


def _hardmax(call: Call) -> Tensor:
    x = call.tensor(0)
    axis = call.axis(x.ndim, -1 if call.opset >= 13 else 1)
    flat = x if call.opset >= 13 else x.flatten(axis)
    axis = axis if call.opset >= 13 else flat.ndim - 1
    largest = flat.argmax(axis, keepdim=True)
    return torch.zeros_like(flat).scatter(axis, largest, torch.ones_like(flat)).reshape(x.shape)


ACTIVATIONS: dict[str, Translation] = {
    "Relu": unary(torch.relu),
    "LeakyRelu": Translation(_leaky_relu),
    "PRelu": Translation(_prelu),
    "Elu": Translation(_elu),
    "Celu": Translation(_celu),
    "Selu": Translation(_selu),
    "Sigmoid": unary(torch.sigmoid),
    "HardSigmoid": Translation(_hard_sigmoid),
    "HardSwish": unary(F.hardswish),
    "Tanh": unary(torch.tanh),
    "Softplus": Translation(_softplus),
    "Softsign": unary(F.softsign),
    "Gelu": Translation(_gelu),
    "Mish": unary(F.mish),
    "Swish": Translation(_swish),
    "ThresholdedRelu": Translation(_thresholded_relu),
    "Shrink": Translation(_shrink),
    "Softmax": Translation(_softmax),
    "LogSoftmax": Translation(lambda call: _softmax(call, is_logarithm=True)),
    "Hardmax": Translation(_hardmax),
    "Dropout": Translation(_dropout, values=(1, 2)),
}
"""Operator -> its translation."""
