"""Parameters, buffers and modules of a module, by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def put(root: nn.Module, name: str, value: object) -> None:
    """Set what is called ``name`` on ``root``: a parameter, a buffer (any other tensor), a module, or a plain attribute."""
    if name in root._parameters or name in root._buffers:  # one may take the other's place
        delattr(root, name)
    if isinstance(value, nn.Parameter):
        root.register_parameter(name, value)
    elif isinstance(value, Tensor):
        root.register_buffer(name, value)
    else:
        setattr(root, name, value)


def at(root: nn.Module, path: str) -> Any:
    """What is at the dotted ``path``; `AttributeError` where nothing is."""
    value: Any = root
    for part in path.split("."):
        value = getattr(value, part)
    return value


def without_subnormals(x: Tensor) -> Tensor:
    """``x`` with numbers too small for a normal float (below 1.2e-38 in float32) set to 0.

    Weight decay leaves such weights behind in channels nothing uses. They change no result, but a processor takes a hundred times longer
    to multiply by one: convolutions with a few hundred of them ran three to nine times slower.
    """
    if not x.is_floating_point():
        return x
    return torch.where(x.abs() < torch.finfo(x.dtype).tiny, torch.zeros_like(x), x)


def is_sound(name: str, x: Tensor) -> bool:
    """Whether a stored tensor may be part of a network: finite, or a buffer of bounds or hidden places that holds infinities."""
    if not x.is_floating_point():
        return True
    may_be_infinite = not isinstance(x, nn.Parameter) and not name.endswith(("running_mean", "running_var"))
    return not bool(torch.isnan(x).any()) if may_be_infinite else bool(torch.isfinite(x).all())
