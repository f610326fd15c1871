"""Damping and the learned pull against their formulas, value by value."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import halfstep as hs
from halfstep.steps.training.edges import learned_weights
from halfstep.steps.training.regularizer import Regularization, Regularizer


def prepared() -> GraphModule:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).eval()
    steps = ["fold_batch_norm", "place_quantizers", "calibrate", "round", {"finetune": {"start_weights": "float"}}]
    scheme = {"weights": {"type": "int3", "per_channel": False}, "activations": {"type": "uint8", "symmetric": False}}
    recipe = hs.Recipe.parse({"name": "test", "scheme": scheme, "steps": steps})
    return hs.prepare(model, torch.randn(64, 6), recipe).trainable.network


def parts() -> tuple[Regularizer, list[tuple[torch.Tensor, torch.Tensor, float]]]:
    """(weight, its value on the grid, scale) of both layers; some weights lie beyond the grid."""
    network = prepared()
    found = []
    for weight, quantizer in learned_weights(network):
        with torch.no_grad():
            weight[0] *= 3
        quantized = quantizer.quantize(weight.detach())
        found.append((weight, quantized.dequantize(), float(quantized.scale)))
    assert len(found) == 2
    return Regularizer(network, Regularization()), found


@pytest.mark.parametrize("done", [0.0, 0.5, 1.0])
def test_damping(done: float) -> None:
    regularizer, weights = parts()
    regularizer.options = Regularization(damping=0.3)
    loss = regularizer(done)
    loss.backward()
    factor, expected = 0.3 * (1 - math.cos(math.pi * done)) / 2, 0.0
    for weight, value, scale in weights:
        clipped = weight.detach().clamp(-4 * scale, 3 * scale)
        expected += factor * float((value - clipped).square().sum())
        inside = clipped == weight.detach()
        assert not inside.all()
        torch.testing.assert_close(weight.grad, 2 * factor * (weight.detach() - value) * inside)
    assert float(loss.detach()) == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_the_learned_pull() -> None:
    """L = k E - a ln k; dL/dw = 2 k (w - ŵ) / N; dL/dk = E - a / k, which is 0 at k = a / E."""
    network = prepared()
    regularizer = Regularizer(network, Regularization(msqe=0.4))
    assert regularizer.pull is not None
    regularizer.pull.set(torch.tensor(2.0))
    loss = regularizer(0.0)
    loss.backward()
    weights = learned_weights(network)
    num = sum(weight.numel() for weight, _ in weights)
    error = sum(float((weight - quantizer(weight)).detach().square().sum()) for weight, quantizer in weights) / num
    assert float(loss.detach()) == pytest.approx(2 * error - 0.4 * math.log(2), rel=1e-5)
    for weight, quantizer in weights:
        torch.testing.assert_close(weight.grad, 2 * 2 * (weight - quantizer(weight)).detach() / num)
        assert any(parameter.grad is not None and bool(parameter.grad.any()) for parameter in quantizer.parameters())
    assert regularizer.pull.logarithm.grad is not None
    assert float(regularizer.pull.logarithm.grad) == pytest.approx((error - 0.4 / 2) / 2, rel=1e-5)  # of ln k: see learned.py
