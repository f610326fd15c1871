"""What must hold of a loaded network, whatever its files say: grids with scales and codes, and a float network of the same layers."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from halfstep.errors import ModelError
from halfstep.graph.edit import named_state
from halfstep.grid import Grid
from halfstep.quantizers import AbstractQuantizer


def check_sound(model: GraphModule, float_model: GraphModule) -> None:
    """Raise `ModelError` that names the layer where ``model`` cannot be a quantized form of ``float_model``.

    Scales are positive numbers, zero points codes of their grids, and parameters of one name of one shape in both. That tensors are
    finite, `graph.check` demands of every graph that is read.
    """
    for path, module in model.named_modules():
        if isinstance(module, AbstractQuantizer) and module.is_enabled:
            _check_grid(path, module.grid, dict(module.named_buffers()) | dict(module.named_parameters()))
    own = _parameters(float_model)
    for path, parameter in _parameters(model).items():
        if path in own and own[path].shape != parameter.shape:
            shapes = f"{list(parameter.shape)} in the quantized network and {list(own[path].shape)} in the float one"
            raise ModelError(f"'{path}' has shape {shapes}: they are not of one run.")


def _parameters(network: GraphModule) -> dict[str, nn.Parameter]:
    """By the user's names."""
    return {name: tensor for name, tensor in named_state(network).items() if isinstance(tensor, nn.Parameter)}


def _check_grid(path: str, grid: Grid, tensors: dict[str, Tensor]) -> None:
    scale, zero_point = tensors.get("scale"), tensors.get("zero_point")
    if scale is not None and not bool((torch.isfinite(scale) & (scale > 0)).all()):
        raise ModelError(f"A scale of '{path}' is not a positive number.")
    if zero_point is not None and not bool(((zero_point >= grid.minimum) & (zero_point <= grid.maximum)).all()):
        raise ModelError(f"A zero point of '{path}' is none of its codes, {grid.minimum} to {grid.maximum}.")
