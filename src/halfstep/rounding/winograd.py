"""3x3 convolutions of stride 1 with a quarter of the multiplications, where the same inputs meet many weights.

    Y = Aᵀ [ sum_i (G w G ᵀ) ⊙ (Bᵀ x B) ] A          dL/dw = sum_tiles  Gᵀ [ (A dL/dY Aᵀ) ⊙ (Bᵀ x B) ] G

x: a 6x6 tile of one input channel i, every fourth place; w: the 3x3 kernel; Y: the 4x4 outputs of the tile. ⊙ is a product of matrices over
channels at each of 36 points. Winograd 1980; Lavin and Gray 2016, "Fast algorithms for convolutional neural networks", section 4.3 (F(4x4,
3x3), points 0, ±1, ±2, ∞). Deviation: Bᵀ x B is computed once for all inputs, because only w changes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

_B = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0), (0, 4, 0, -5, 0, 1))
_G = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))  # times 1/24
_A = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))
_POINT_ONE = 7  # (1, 1) among the 6x6 points: what is added there is added to all outputs of the tile
_CHUNK = 64  # images transformed at a time


def _both_axes(matrix: tuple[tuple[int, ...], ...], like: Tensor) -> Tensor:
    """The matrix that does to a flattened square what ``matrix`` does to its rows and columns."""
    one = torch.tensor(matrix, dtype=torch.float64)
    return torch.kron(one, one).to(like)


class Winograd:
    """Convolves chosen samples of ``inputs`` [N, I, H, W], which carry their zeros around them."""

    def __init__(self, inputs: Tensor) -> None:
        self._output_map = _both_axes(_A, inputs)  # [16, 36]
        self._residual_map = self._output_map.t().contiguous()
        self._kernel_map = _both_axes(_G, inputs) / 24**2  # [36, 9]
        self._kernel_gradient_map = self._kernel_map.t().contiguous()
        self._num_inputs = inputs.shape[1]
        self._transformed = self._transform(inputs)  # [36, N, T I]
        self._num_chosen, self._num_outputs = 0, 0

    def forward(self, weight: Tensor, bias: Tensor | None, chosen: Tensor) -> Tensor:
        """The outputs of the samples ``chosen`` [B] for ``weight`` [9, I, O]: [16, B T O]; the next call overwrites them."""
        num_outputs = weight.shape[2]
        if (self._num_chosen, self._num_outputs) != (len(chosen), num_outputs):
            self._allocate(len(chosen), num_outputs)
        torch.index_select(self._transformed, 1, chosen, out=self._batch)
        kernel = (self._kernel_map @ weight.flatten(1)).view(36, -1, num_outputs)
        torch.bmm(self._batch.view(36, -1, self._num_inputs), kernel, out=self._product)
        if bias is not None:
            self._product[_POINT_ONE] += bias
        return torch.mm(self._output_map, self._product.view(36, -1), out=self._output)

    def backward(self, residual: Tensor) -> Tensor:
        """The gradient in the weight of the last `forward`, [9, I, O], from that in its outputs [16, B T O]."""
        torch.mm(self._residual_map, residual.view(16, -1), out=self._product.view(36, -1))
        patches = self._batch.view(36, -1, self._num_inputs)
        kernel = torch.bmm(patches.transpose(1, 2), self._product)
        return (self._kernel_gradient_map @ kernel.flatten(1)).view(9, self._num_inputs, -1)

    def _allocate(self, num_chosen: int, num_outputs: int) -> None:
        self._num_chosen, self._num_outputs = num_chosen, num_outputs
        row = self._transformed.shape[2]
        self._batch = self._transformed.new_empty(36, num_chosen, row)
        num_rows = num_chosen * row // self._num_inputs
        self._product = self._batch.new_empty(36, num_rows, num_outputs)
        self._output = self._batch.new_empty(16, num_rows * num_outputs)

    def _transform(self, inputs: Tensor) -> Tensor:
        height, width = (size - 2 for size in inputs.shape[2:])
        down, right = -height % 4, -width % 4
        num_tiles = (height + down) // 4 * ((width + right) // 4)
        found = inputs.new_empty(36, len(inputs), num_tiles * inputs.shape[1])
        to_points = _both_axes(_B, inputs)
        for start in range(0, len(inputs), _CHUNK):
            chunk = F.pad(inputs[start : start + _CHUNK], (0, right, 0, down)).movedim(1, -1)
            tiles = chunk.unfold(1, 6, 4).unfold(2, 6, 4).permute(4, 5, 0, 1, 2, 3)  # [6, 6, n, T_h, T_w, I]
            found[:, start : start + len(chunk)] = (to_points @ tiles.reshape(36, -1)).view(36, len(chunk), -1)
        return found


def tiled(images: Tensor) -> Tensor:
    """[N, C, H, W] in 4x4 tiles, zeros beyond the border: [16, N, T C]."""
    padded = F.pad(images, (0, -images.shape[3] % 4, 0, -images.shape[2] % 4)).movedim(1, -1)
    tiles: Tensor = padded.unflatten(2, (-1, 4)).unflatten(1, (-1, 4))  # [N, T_h, 4, T_w, 4, C]
    return tiles.permute(2, 4, 0, 1, 3, 5).reshape(16, len(images), -1)
