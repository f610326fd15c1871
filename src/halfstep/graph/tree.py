"""Parameters, buffers and modules at dotted paths."""

from __future__ import annotations

from torch import Tensor, nn


def put(root: nn.Module, path: str, value: object) -> None:
    """Set what is at ``path``, making the modules above it: a parameter, a buffer (any other tensor), a module, or a plain attribute."""
    *parents, leaf = path.split(".")
    for part in parents:
        if not hasattr(root, part):
            root.add_module(part, nn.Module())
        root = getattr(root, part)
    if isinstance(value, nn.Parameter):
        root.register_parameter(leaf, value)
    elif isinstance(value, Tensor):
        root.register_buffer(leaf, value)
    else:
        setattr(root, leaf, value)
