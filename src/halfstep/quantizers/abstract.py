"""What a quantizer is: an ``nn.Module`` on an edge of the graph that says how real values become codes."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, final

from torch import Tensor, nn

from halfstep.grid import Grid, Quantized
from halfstep.registry import Registry


class AbstractQuantizer(nn.Module):
    """Weights and activations alike: the graph calls it on the tensor that leaves the edge it sits on.

    A subclass supplies `quantize` and `configuration`; its tensors are parameters or buffers, so that ``state_dict`` holds them.
    While ``is_enabled`` is False the quantizer passes its input through untouched: so a graph runs in float before it is
    calibrated, and float and simulated activations can be compared on one graph.
    """

    name: ClassVar[str] = ""

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.is_enabled = False

    @abstractmethod
    def quantize(self, x: Tensor) -> Quantized:
        """``x`` of any shape (with ``grid.channel_axis`` of C entries where the grid is per channel) as codes on the grid."""

    @property
    @abstractmethod
    def is_calibrated(self) -> bool:
        """Whether `quantize` knows its scale."""

    def configuration(self) -> dict[str, Any]:
        """What ``QUANTIZERS[name](Grid(**grid), ...)`` needs besides the state; plain values."""
        return {"grid": self.grid.to_json()}

    def simulate(self, x: Tensor) -> Tensor:
        """Quantize, then dequantize, in the type of ``x``. A subclass may write the same values, bit for bit, with gradients of its own."""
        return self.quantize(x).dequantize().to(x.dtype)

    @final  # type: ignore[misc]  # torch declares forward as a variable
    def forward(self, x: Tensor) -> Tensor:
        """The simulation, or ``x`` itself while the quantizer is switched off."""
        return self.simulate(x) if self.is_enabled else x

    def extra_repr(self) -> str:
        """Shown by ``print(model)``."""
        groups = "" if self.grid.group_size is None else f"group_size={self.grid.group_size}, "
        return f"{self.grid.type_name}, channel_axis={self.grid.channel_axis}, {groups}is_enabled={self.is_enabled}"


QUANTIZERS: Registry[AbstractQuantizer] = Registry("quantizer")


def quantizers(model: nn.Module) -> Iterator[tuple[str, AbstractQuantizer]]:
    """(name, quantizer) of every quantizer in ``model``, each once."""
    return ((name, module) for name, module in model.named_modules() if isinstance(module, AbstractQuantizer))


@contextmanager
def in_float(model: nn.Module) -> Iterator[None]:
    """Within the block every quantizer of ``model`` is switched off: the network computes in float."""
    enabled = [module for _, module in quantizers(model) if module.is_enabled]
    for module in enabled:
        module.is_enabled = False
    try:
        yield
    finally:
        for module in enabled:
            module.is_enabled = True
